// switch.json: what is read, and that nothing in it can do worse than an error.
#include <filesystem>
#include <fstream>
#include <set>

#include "check.h"
#include "config.h"
#include "scripted.h"

using namespace switch_runtime;
using namespace switch_tests;
using nlohmann::json;

namespace {

Config parse(const json& document) { return parse_config(document.dump(), "dir"); }

void expect_refused(const json& document, const std::vector<std::string>& parts) {
  expect_error(SWITCH_INVALID_MODEL, parts, [&] { parse(document); });
}

// A directory whose files are as switch.json says, removed at the end.
class Directory {
 public:
  explicit Directory(const std::string& name)
      : path(std::filesystem::temp_directory_path() /
             (name + std::to_string(std::hash<std::string>{}(name)))) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directory(path);
    write("switch.json", make_document().dump());
    for (const char* file : {"encoder.onnx", "decoder.onnx", "weights.bin"}) write(file, "abc");
  }
  ~Directory() { std::filesystem::remove_all(path); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
  }

  const std::filesystem::path path;
};

void a_right_description_is_read() {
  json document = make_document();
  document["generation"] = {
      {"num_beams", 4},
      {"max_length", 50},
      {"min_length", 6},
      {"do_sample", true},
      {"length_penalty", 2},
      {"early_stopping", "never"},
      {"max_new_tokens", nullptr},
      {"temperature", 0.5},
      {"top_k", 7},
      {"bad_words_ids", {{2}, {3, 4}}},
      {"forced_eos_token_id", 1},
      {"suppress_tokens", {5, 2}},
      {"use_cache", true},
      {"num_beam_groups", 1},
  };
  const Config config = parse(document);
  const GenerationOptions& generation = config.generation;
  expect_equal(config.vocab_size, 6, "vocab_size");
  expect_equal(generation.eos, std::vector<int64_t>({1}), "eos");
  expect_equal(generation.num_beams, 4, "num_beams");
  expect_equal(generation.max_length, 50, "max_length");
  expect_equal(generation.max_new_tokens, -1, "max_new_tokens");
  expect_equal(generation.min_length, 6, "min_length");
  expect_equal(generation.length_penalty, 2.0, "length_penalty");
  expect(generation.early_stopping == SWITCH_EARLY_STOPPING_NEVER, "early_stopping");
  expect(generation.do_sample, "do_sample");
  expect_equal(generation.temperature, 0.5, "temperature");
  expect_equal(generation.top_k, 7, "top_k");
  expect_equal(generation.bad_words[1], std::vector<int64_t>({3, 4}), "bad_words");
  expect_equal(generation.forced_eos, std::vector<int64_t>({1}), "forced_eos");
  expect_equal(generation.suppress, std::vector<int64_t>({5, 2}), "suppress");
  expect_equal(config.bad_words[1].count, 2, "bad word 1");
  expect(config.unknown_generation.empty(), "nothing is unknown");
}

void generation_defaults_that_are_not_known_are_remembered_and_wrong_ones_refused() {
  json document = make_document();
  document["generation"] = {{"num_beam_groups", 2}, {"epsilon_cutoff", 0.1}, {"fancy", true}};
  expect_equal(
      parse(document).unknown_generation,
      std::vector<std::string>({"epsilon_cutoff (0.1)", "fancy (true)", "num_beam_groups (2)"}),
      "unknown");
  document["generation"] = {{"temperature", "hot"},
                            {"bad_words_ids", {{}, 3}},
                            {"suppress_tokens", {99}},
                            {"do_sample", 1}};
  expect_refused(document, {"generation.temperature is \"hot\"", "generation.bad_words_ids holds",
                            "generation.suppress_tokens is 99", "generation.do_sample is 1"});
}

void a_newer_format_asks_for_a_newer_runtime() {
  json document = {{"format", 2}, {"anything", "else"}};
  expect_refused(document, {"format 2", "newer switch-export runtime needed"});
}

void every_problem_is_in_one_message() {
  json document = make_document();
  document["model"].erase("d_model");
  document["model"]["num_heads"] = "two";
  document["tokens"]["pad"] = 6;
  document["task"] = "guess";
  document["generation"]["num_beams"] = 0;
  document["files"]["../etc"] = {{"size", 1}};
  document["files"]["weights.bin"] = 3;
  expect_refused(document, {"model.d_model is missing", "model.num_heads is \"two\"",
                            "tokens.pad is 6", "task is \"guess\"", "generation.num_beams is 0",
                            "../etc", "files.weights.bin is 3"});
}

void tensors_that_differ_from_the_contract_are_named() {
  json document = make_document();
  document["graphs"]["decoder"]["inputs"][3]["shape"][1] = 7;
  document["graphs"]["decoder"]["outputs"][0]["type"] = "int32";
  document["graphs"]["encoder"]["outputs"].erase(0);
  document["graphs"]["encoder"]["inputs"].push_back(
      {{"name", "extra"}, {"type", "int64"}, {"shape", {1}}});
  expect_refused(document, {"self_key.0 is float32 [R, 7, C, 3], expected float32 [R, 2, C, 3]",
                            "logits is int32", "cross_key.0 is missing", "extra is an input"});
}

void a_graph_file_has_to_be_listed() {
  json document = make_document();
  document["graphs"]["encoder"]["file"] = "/etc/passwd";
  expect_refused(document, {"\"/etc/passwd\" is not among the listed files"});
}

void text_that_is_not_a_json_object_is_refused() {
  std::string deep(100000, '[');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{\"format\": 1e99}"),
        std::string("\xff\xfe"), deep, "{\"format\":1,\"x\":" + deep}) {
    expect_error(SWITCH_INVALID_MODEL, {"switch-export"}, [&] { parse_config(text, "dir"); });
  }
}

// Replace every value of the description, one at a time, by hostile ones: it loads or is refused.
void no_altered_value_does_worse_than_an_error() {
  const json document = make_document();
  const std::vector<json> hostile = {nullptr,
                                     true,
                                     -1,
                                     0,
                                     INT64_MIN,
                                     INT64_MAX,
                                     UINT64_MAX,
                                     1e300,
                                     "",
                                     std::string(5000, 'x'),
                                     json::array(),
                                     json::object(),
                                     json::array({json::array({-1})})};
  int refused = 0, tried = 0;
  std::set<std::string> seen;
  const json flat = document.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    for (json::json_pointer place(pointer); !place.empty(); place.pop_back()) {
      if (!seen.insert(place.to_string()).second) break;  // and so were the places above it
      for (const json& replacement : hostile) {
        json altered = document;
        altered[place] = replacement;
        ++tried;
        try {
          parse(altered);
        } catch (const Error& error) {
          expect(error.status() == SWITCH_INVALID_MODEL, error.what());
          ++refused;
        }
      }
    }
  }
  expect(refused > tried / 2, "only " + show(refused) + " of " + show(tried) + " were refused");
}

void what_is_not_a_model_directory_is_told_so() {
  const Directory directory("switch-config-a");
  const auto read = [](const std::string& path) { return [path] { read_config(path); }; };
  expect_error(SWITCH_INVALID_MODEL, {"not a model directory", "No such file"}, read("/nowhere"));
  expect_error(SWITCH_INVALID_MODEL, {"not a model directory", "not a directory"},
               read((directory.path / "weights.bin").string()));
  std::filesystem::remove(directory.path / "switch.json");
  expect_error(SWITCH_INVALID_MODEL, {"not a model directory", "no switch.json"},
               read(directory.path.string()));
}

void missing_and_truncated_files_are_all_named() {
  const Directory directory("switch-config-b");
  expect_equal(read_config(directory.path.string()).vocab_size, 6, "vocab_size");
  directory.write("weights.bin", "ab");
  std::filesystem::remove(directory.path / "encoder.onnx");
  std::filesystem::remove(directory.path / "decoder.onnx");
  std::filesystem::create_directory(directory.path / "decoder.onnx");
  expect_error(SWITCH_INVALID_MODEL,
               {"weights.bin has 2 bytes, expected 3", "encoder.onnx is missing",
                "decoder.onnx is not a file"},
               [&] { read_config(directory.path.string()); });
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(a_right_description_is_read),
      TEST(generation_defaults_that_are_not_known_are_remembered_and_wrong_ones_refused),
      TEST(a_newer_format_asks_for_a_newer_runtime),
      TEST(every_problem_is_in_one_message),
      TEST(tensors_that_differ_from_the_contract_are_named),
      TEST(a_graph_file_has_to_be_listed),
      TEST(text_that_is_not_a_json_object_is_refused),
      TEST(no_altered_value_does_worse_than_an_error),
      TEST(what_is_not_a_model_directory_is_told_so),
      TEST(missing_and_truncated_files_are_all_named),
  });
}
