// Text in, text out with an exported model from C++17; no Python.
//
//   embed_cpp [--beams N] DIR [TEXT ...]
//
// DIR is a model directory with a tokenizer. Without TEXT every line of standard input is one.
// Prints one line per text. SWITCH_ORT_LIBRARY names libonnxruntime.so where the system has none.
#include <exception>
#include <iostream>
#include <string>
#include <switch_runtime.hpp>
#include <vector>

#include "text.h"

namespace {

int decode(const std::string& directory, int32_t beams, const std::vector<std::string>& texts) {
  const switch_runtime::Model model(directory);
  const Text text(model.describe());

  std::vector<switch_runtime::Ids> sources;
  for (const std::string& each : texts) sources.push_back(text.encode(each));
  switch_runtime::GenerateOptions options = model.generate_options();
  options.num_beams = beams;
  for (const auto& sequence : model.generate(sources, options)) {
    std::cout << text.decode(sequence.ids) << "\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    int32_t beams = 1;
    if (arguments.size() >= 2 && arguments[0] == "--beams") {
      beams = std::stoi(arguments[1]);
      arguments.erase(arguments.begin(), arguments.begin() + 2);
    }
    if (arguments.empty()) {
      std::cerr << "usage: " << argv[0] << " [--beams N] DIR [TEXT ...]\n";
      return 2;
    }
    std::vector<std::string> texts(arguments.begin() + 1, arguments.end());
    if (texts.empty()) {
      for (std::string line; std::getline(std::cin, line);) texts.push_back(line);
    }
    return decode(arguments[0], beams, texts);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
