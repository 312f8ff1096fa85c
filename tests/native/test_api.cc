// The exported C API and its C++ wrapper, without an engine: wrong use is an error, never a crash.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "switch_runtime.hpp"

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  std::cout << (holds ? "ok      " : "FAILED  ") << what << "\n";
  failures += !holds;
}

bool failed_with(switch_status status, const std::string& part) {
  const bool found = std::string(switch_last_error()).find(part) != std::string::npos;
  if (!found) std::cout << "        " << switch_last_error() << "\n";
  return found && switch_last_status() == status;
}

void null_arguments_are_errors() {
  expect(std::string(switch_last_error()).empty(), "there is no error before the first failure");
  expect(!switch_model_load(nullptr, nullptr) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "directory is NULL"),
         "loading NULL is an error");
  expect(!switch_generate(nullptr, nullptr, nullptr, 1, nullptr) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "model is NULL"),
         "generating without a model is an error");
  expect(!switch_model_describe(nullptr), "describing no model is an error");
  switch_generate_options options;
  expect(switch_generate_options_init(nullptr, &options, sizeof options) == SWITCH_INVALID_ARGUMENT,
         "defaults of no model are an error");
  switch_model_free(nullptr);
  switch_result_free(nullptr);
  switch_arrays_free(nullptr);
  size_t count = 7;
  expect(!switch_result_ids(nullptr, 0, &count) && count == 0, "no result has no sequences");
  expect(!switch_arrays_data(nullptr, 0) && !switch_arrays_name(nullptr, 0), "no arrays, no data");
}

void options_are_checked() {
  switch_load_options options{};
  expect(!switch_model_load("/nowhere", &options) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "size of switch_load_options is 0"),
         "a forgotten size is an error");
  options.size = sizeof options;
  options.device = "abacus";
  options.threads = -1;
  expect(!switch_model_load("/nowhere", &options) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "device is \"abacus\"") &&
             failed_with(SWITCH_INVALID_ARGUMENT, "threads is -1"),
         "wrong load options are all named");

  struct {
    switch_load_options known;
    int64_t later;
  } newer{};
  newer.known.size = sizeof newer;
  expect(!switch_model_load("/nowhere", &newer.known) &&
             failed_with(SWITCH_INVALID_MODEL, "not a model directory"),
         "options of a later version are accepted while unused");
  newer.later = 1;
  expect(!switch_model_load("/nowhere", &newer.known) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "does not know"),
         "an option that this version does not know is an error");
}

void the_wrapper_throws_what_the_c_api_reports() {
  try {
    switch_runtime::Model model("/nowhere");
    expect(false, "the wrapper throws");
  } catch (const switch_runtime::Failure& failure) {
    expect(failure.status() == SWITCH_INVALID_MODEL &&
               std::string(failure.what()).find("/nowhere") != std::string::npos,
           "the wrapper throws what the C API reports");
  }
}

}  // namespace

int main() {
  null_arguments_are_errors();
  options_are_checked();
  the_wrapper_throws_what_the_c_api_reports();
  expect(std::string(switch_version()).find('.') != std::string::npos, "there is a version");
  return failures == 0 ? 0 : 1;
}
