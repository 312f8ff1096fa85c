// The exported C API and its C++ wrapper, without an engine: wrong use is an error, never a crash.
// What needs a loaded model is in tests/embedded, which tests/test_embedding.py runs.
#include <iostream>
#include <string>
#include <utility>

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

void versions_are_those_of_the_header() {
  expect(std::string(switch_version()).find('.') != std::string::npos, "there is a version");
  expect(switch_abi_version() == SWITCH_ABI_VERSION, "the library is of the header's interface");
}

void no_model_is_an_error() {
  const switch_ids ids{};
  const std::pair<const char*, const void*> calls[] = {
      {"switch_generate", switch_generate(nullptr, &ids, 1, nullptr)},
      {"switch_encode", switch_encode(nullptr, &ids, 1, SWITCH_POOLING_NONE, nullptr)},
      {"switch_score", switch_score(nullptr, &ids, &ids, 1, nullptr)},
      {"switch_forward", switch_forward(nullptr, &ids, &ids)},
      {"switch_route", switch_route(nullptr, &ids, &ids)},
      {"switch_model_describe", switch_model_describe(nullptr)},
  };
  for (const auto& [name, returned] : calls) {
    expect(!returned && failed_with(SWITCH_INVALID_ARGUMENT, "model is NULL"),
           std::string(name) + " without a model is an error");
  }
  switch_generate_options options{};
  expect(
      switch_generate_options_init(nullptr, &options, sizeof options) == SWITCH_INVALID_ARGUMENT &&
          failed_with(SWITCH_INVALID_ARGUMENT, "model is NULL"),
      "defaults of no model are an error");
}

void null_arguments_are_errors() {
  expect(std::string(switch_last_error()).empty() && switch_last_status() == SWITCH_OK,
         "there is no error before the first failure");
  expect(!switch_model_load(nullptr, nullptr) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "directory is NULL"),
         "loading NULL is an error");
  expect(!switch_generate(nullptr, nullptr, 1, nullptr) &&
             !switch_encode(nullptr, nullptr, 1, 0, nullptr) &&
             !switch_score(nullptr, nullptr, nullptr, 1, nullptr) &&
             !switch_forward(nullptr, nullptr, nullptr) &&
             !switch_route(nullptr, nullptr, nullptr) &&
             switch_generate_options_init(nullptr, nullptr, 0) == SWITCH_INVALID_ARGUMENT,
         "nothing but NULL is an error");
}

void nothing_can_be_freed_and_asked() {
  switch_model_free(nullptr);
  switch_result_free(nullptr);
  switch_arrays_free(nullptr);
  size_t count = 7, rank = 7;
  expect(!switch_result_ids(nullptr, 0, &count) && count == 0 &&
             !switch_result_ids(nullptr, 0, nullptr),
         "no result has no sequences");
  expect(switch_result_count(nullptr) == 0 && switch_result_steps(nullptr) == 0 &&
             switch_result_eos(nullptr, 0) == -1 && switch_result_score(nullptr, 0) == 0,
         "no result, no numbers");
  expect(switch_arrays_count(nullptr) == 0 && !switch_arrays_data(nullptr, 0) &&
             !switch_arrays_name(nullptr, 0) && switch_arrays_type(nullptr, 0) == SWITCH_FLOAT32,
         "no arrays, no data");
  expect(!switch_arrays_shape(nullptr, 0, &rank) && rank == 0 &&
             !switch_arrays_shape(nullptr, 0, nullptr),
         "no arrays, no shapes");
}

void options_are_checked() {
  switch_load_options options{};
  expect(!switch_model_load("/nowhere", &options) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "size of switch_load_options is 0"),
         "a forgotten size is an error");
  options.size = static_cast<size_t>(-1);
  expect(!switch_model_load("/nowhere", &options) &&
             failed_with(SWITCH_INVALID_ARGUMENT, "size of switch_load_options is"),
         "a size that cannot be one is an error");
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

void the_wrapper_fills_in_the_sizes() {
  expect(switch_runtime::LoadOptions().size == sizeof(switch_load_options), "load options");
  expect(switch_runtime::BatchOptions().size == sizeof(switch_batch_options), "batch options");
  switch_generate_options options{};
  options.size = sizeof options;
  const int64_t ids[] = {3, 4};
  const switch_ids lists[] = {{ids, 2}, {ids, 1}};
  options.bad_words_ids = lists;
  options.bad_words_count = 2;
  options.eos_token_id = {ids, 2};
  const switch_runtime::GenerateOptions wrapped(options);
  expect(wrapped.size == sizeof options, "generate options");
  expect(wrapped.bad_words_ids == std::vector<switch_runtime::Ids>{{3, 4}, {3}} &&
             wrapped.eos_token_id == switch_runtime::Ids{3, 4} && wrapped.suppress_tokens.empty() &&
             wrapped.decoder_input_ids.empty(),
         "lists of the options become vectors");
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
  no_model_is_an_error();
  nothing_can_be_freed_and_asked();
  options_are_checked();
  the_wrapper_fills_in_the_sizes();
  the_wrapper_throws_what_the_c_api_reports();
  versions_are_those_of_the_header();
  return failures == 0 ? 0 : 1;
}
