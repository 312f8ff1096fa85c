// One loaded model directory, many threads: the results are those of the same requests made one by
// one. Not a test by itself: tests/test_threads.py runs it, also under the thread sanitizer.
//
//   concurrent DIRECTORY LIBONNXRUNTIME PLUGIN THREADS REQUESTS
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "switch_runtime.h"

namespace {

using Ids = std::vector<std::vector<int64_t>>;

[[noreturn]] void fail(const std::string& what) {
  std::cerr << what << "\n";
  std::exit(1);
}

int32_t penalise(void*, const switch_step* step) {
  for (int64_t row = 0; row < step->rows; ++row) step->scores[row * step->vocab_size + 3] -= 1;
  return 0;
}

int32_t count(void* data, int64_t, int64_t) {
  ++*static_cast<int64_t*>(data);
  return 0;
}

// Greedy, beams, sampling, processors, prefixes and callbacks, and scores in between.
Ids request(switch_model* model, int64_t number) {
  std::vector<int64_t> a, b = {5 + number % 90, 1}, prefix = {7, 8};
  for (int64_t i = 0; i < 1 + number % 14; ++i) a.push_back(2 + (number * 7 + i * 13) % 120);
  const switch_ids sources[] = {{a.data(), static_cast<int64_t>(a.size())}, {b.data(), 2}};
  switch_generate_options options;
  if (switch_generate_options_init(model, &options, sizeof options)) fail(switch_last_error());
  options.max_new_tokens = 6 + number % 5;
  options.num_beams = 1 + static_cast<int32_t>(number % 3);
  options.do_sample = number % 5 == 0;
  options.seed = number;
  options.no_repeat_ngram_size = number % 2 * 2;
  options.max_batch_tokens = number % 4 == 1 ? 1 : 0;
  const switch_ids prefixes = {prefix.data(), 2};
  if (number % 7 == 0) {
    options.decoder_input_ids = &prefixes;
    options.decoder_input_count = 1;
  }
  int64_t tokens = 0;
  options.user_data = &tokens;
  if (number % 3 == 1) options.on_logits = penalise;
  if (options.num_beams == 1) options.on_token = count;
  switch_result* result = switch_generate(model, sources, 2, &options);
  if (!result) fail(switch_last_error());
  Ids ids;
  for (size_t i = 0; i < switch_result_count(result); ++i) {
    size_t size = 0;
    const int64_t* first = switch_result_ids(result, i, &size);
    ids.emplace_back(first, first + size);
  }
  switch_result_free(result);
  if (number % 10 == 9) {
    switch_arrays* scores = switch_score(model, sources, sources, 2, nullptr);
    if (!scores) fail(switch_last_error());
    switch_arrays_free(scores);
  }
  return ids;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) fail("usage: concurrent DIRECTORY LIBONNXRUNTIME PLUGIN THREADS REQUESTS");
  switch_load_options load{};
  load.size = sizeof load;
  load.threads = 2;
  load.ort_library = argv[2];
  load.plugin_library = argv[3];
  switch_model* model = switch_model_load(argv[1], &load);
  if (!model) fail(switch_last_error());
  const int64_t requests = std::atoll(argv[5]);
  std::vector<Ids> expected, found(static_cast<size_t>(requests));
  for (int64_t i = 0; i < requests; ++i) expected.push_back(request(model, i));
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < std::atoi(argv[4]); ++i) {
    threads.emplace_back([&] {
      for (int64_t at = next++; at < requests; at = next++) found[at] = request(model, at);
    });
  }
  for (auto& thread : threads) thread.join();
  for (int64_t i = 0; i < requests; ++i) {
    if (found[i] != expected[i]) fail("request " + std::to_string(i) + " has other tokens");
  }
  switch_model_free(model);
  std::cout << requests << " requests are the same\n";
  return 0;
}
