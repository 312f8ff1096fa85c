// A generate call around its searches, over scripted logits: batches, prefixes, items that leave,
// scores, threads.
#include <algorithm>
#include <atomic>
#include <thread>

#include "batches.h"
#include "check.h"
#include "generate.h"
#include "scripted.h"
#include "teacher.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

std::vector<std::vector<int64_t>> ids_of(const Generated& generated) {
  std::vector<std::vector<int64_t>> ids;
  for (const Sequence& sequence : generated.sequences) ids.push_back(sequence.ids);
  return ids;
}

// Greedy ids, written out.
std::vector<int64_t> greedy_by_hand(int64_t source, History history, int64_t vocab, size_t most) {
  std::vector<int64_t> ids;
  while (ids.size() < most) {
    const auto logits = hashed_logits(source, history, vocab);
    const int64_t token = std::max_element(logits.begin(), logits.end()) - logits.begin();
    if (token == 1) break;
    ids.push_back(token);
    history.push_back(token);
  }
  return ids;
}

void batches_are_bounded_complete_and_longest_first() {
  for (int64_t most : {1, 7, 20, 100, 100000}) {
    std::vector<RowCost> rows;
    for (int64_t i = 0; i < 50; ++i) rows.push_back({1 + i * 7 % 13, 1 + i * 5 % 11, i % 3});
    std::vector<int64_t> seen;
    int64_t before = INT64_MAX, group = -1;
    for (const auto& batch : plan_batches(rows, most)) {
      int64_t source = 0, target = 0;
      for (int64_t i : batch) {
        seen.push_back(i);
        source = std::max(source, rows[i].source);
        target = std::max(target, rows[i].target);
        expect_equal(rows[i].group, rows[batch[0]].group, "group");
        if (rows[i].group != group) before = INT64_MAX;
        group = rows[i].group;
        expect(rows[i].source <= before, "longest first");
        before = rows[i].source;
      }
      const auto count = static_cast<int64_t>(batch.size());
      expect(count == 1 || (count * source <= most && count * target <= most), "bound");
    }
    std::sort(seen.begin(), seen.end());
    for (int64_t i = 0; i < 50; ++i) expect_equal(seen[i], i, "row");
  }
}

void results_are_in_order_and_do_not_depend_on_the_batches() {
  const Config config = large_vocabulary();
  std::vector<std::vector<int64_t>> sources;
  for (int64_t i = 0; i < 37; ++i) {
    sources.push_back(std::vector<int64_t>(static_cast<size_t>(1 + i * 5 % 9), 2 + i));
  }
  const Input input(sources);
  for (const int mode : {0, 1, 2, 3}) {  // greedy, beams, sampling, beam sampling
    std::vector<std::vector<int64_t>> expected;
    std::vector<int64_t> runs;
    for (int64_t most : {1, 60, 400, 100000}) {
      ScriptedBackend backend(config, hashed(40));
      SearchOptions options(config.generation);
      options.num_beams = mode % 2 ? 3 : 1;
      options.do_sample = mode >= 2;
      options.seed = 5;
      options.max_batch_tokens = most;
      const auto ids = ids_of(generate(backend, config, input.lists(), options));
      if (mode == 0) {
        for (int64_t i = 0; i < 37; ++i) {
          expect_equal(ids[i], greedy_by_hand(2 + i, {0}, 40, 20), "source " + show(i));
        }
      }
      if (expected.empty()) expected = ids;
      expect_equal(ids, expected, "ids in batches of " + show(most));
      runs.push_back(backend.encoder_runs);
    }
    expect_equal(runs.front(), 37, "batches of one");
    expect_equal(runs.back(), 1, "one batch");
    expect(runs[1] > runs[2], "smaller bound, more batches");
  }
}

void a_prefix_is_read_in_one_step_and_not_returned() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3}, {4}});
  for (int64_t beams : {1, 3}) {
    ScriptedBackend backend(config, hashed(40));
    SearchOptions options(config.generation);
    options.num_beams = beams;
    options.max_new_tokens = 6;
    options.prefixes = {{0, 7, 8}, {0, 9}, {0, 5, 6}};
    const Generated found = generate(backend, config, input.lists(), options);
    expect_equal(backend.fed[0], std::vector<int64_t>({0, 9}), "the shorter prefix");
    std::vector<std::vector<int64_t>> wide;
    for (const auto& tokens : backend.fed) {
      if (tokens.size() == 6) wide.push_back(tokens);
    }
    expect_equal(wide[0], std::vector<int64_t>({0, 7, 8, 0, 5, 6}), "the longer prefixes");
    if (beams > 1) continue;
    for (int64_t i = 0; i < 3; ++i) {
      expect_equal(found.sequences[i].ids, greedy_by_hand(2 + i, options.prefixes[i], 40, 6),
                   "source " + show(i));
    }
  }
}

void the_start_token_is_put_before_all_prefixes_or_none() {
  const Config config = large_vocabulary();
  const std::vector<int64_t> with = {0, 5}, without = {5};
  auto given = default_options(config);
  const auto read = [&](std::vector<switch_ids> lists) {
    given.decoder_input_ids = lists.data();
    given.decoder_input_count = static_cast<int64_t>(lists.size());
    return read_search_options(config, given, 2).prefixes;
  };
  using Lists = std::vector<std::vector<int64_t>>;
  expect_equal(read({{without.data(), 1}}), Lists({{0, 5}}), "one list");
  expect_equal(read({{with.data(), 2}}), Lists({{0, 5}}), "one list that has it");
  expect_equal(read({{without.data(), 1}, {without.data(), 1}}), Lists({{0, 5}, {0, 5}}), "all");
  expect_equal(read({{with.data(), 2}, {without.data(), 1}}), Lists({{0, 5}, {5}}), "one has it");
  expect_error(SWITCH_INVALID_ARGUMENT, {"decoder_input_count is 3"},
               [&] { read({{with.data(), 2}, {with.data(), 2}, {with.data(), 2}}); });
  given.max_length = 2;
  expect_error(SWITCH_INVALID_ARGUMENT, {"max_length is 2", "more than the 2 tokens"},
               [&] { read({{with.data(), 2}}); });
}

// Sequences drawn beside each other differ and come in their order; an item leaves when all of its
// sequences have ended.
void several_sequences_of_a_source_are_drawn_independently() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3}});
  ScriptedBackend backend(config, hashed(40));
  SearchOptions options(config.generation);
  options.do_sample = true;
  options.num_return_sequences = 5;
  options.seed = 3;
  const auto first = ids_of(generate(backend, config, input.lists(), options));
  expect_equal(first.size(), size_t{10}, "sequences");
  expect_equal(backend.fed[0].size(), size_t{2}, "the first step reads each source once");
  for (size_t i = 0; i < 10; ++i) {
    for (size_t j = 0; j < i; ++j) expect(first[i] != first[j], "two sequences are the same");
  }
  expect_equal(ids_of(generate(backend, config, input.lists(), options)), first, "same seed");
  options.seed = 4;
  expect(ids_of(generate(backend, config, input.lists(), options)) != first, "another seed");
}

void forbidding_everything_is_an_error_that_names_the_source() {
  const Config config = make_config();  // 6 tokens
  const Input input({{3}, {2}});
  for (const int mode : {0, 1, 2, 3}) {
    ScriptedBackend backend(config, hashed(6));
    SearchOptions options(config.generation);
    options.num_beams = mode % 2 ? 2 : 1;
    options.do_sample = mode >= 2;
    options.suppress = {0, 1, 2, 3, 4, 5};
    expect_error(SWITCH_INVALID_ARGUMENT, {"forbid every token", "source 0"},
                 [&] { generate(backend, config, input.lists(), options); });
  }
}

void unknown_generation_defaults_keep_generate_from_running() {
  auto document = make_document();
  document["generation"] = {{"penalty_alpha", 0.6}};
  const Config config = parse_config(document.dump(), "dir");
  ScriptedBackend backend(config, hashed(6));
  const Input input({std::vector<int64_t>{2}});
  expect_error(SWITCH_INVALID_ARGUMENT, {"penalty_alpha (0.6)"},
               [&] { generate(backend, config, input.lists(), SearchOptions(config.generation)); });
}

void scores_are_those_of_the_targets_in_any_batch() {
  const Config config = large_vocabulary();
  const Input sources({{2}, {3, 3}, {4}, {5}}), targets({{7, 8, 1}, {9}, {6, 6, 6, 6, 1}, {1}});
  for (int64_t most : {0, 1, 8}) {
    ScriptedBackend backend(config, hashed(40));
    BatchOptions options;
    options.max_batch_tokens = most;
    const auto found = score(backend, config, sources.lists(), targets.lists(), options);
    for (int64_t i = 0; i < 4; ++i) {
      const auto& target = targets.tokens[i];
      expect_equal(found[i].tensor.shape[0], static_cast<int64_t>(target.size()), "shape");
      History history = {0};
      for (size_t t = 0; t < target.size(); ++t) {
        const auto logits = hashed_logits(2 + i, history, 40);
        double sum = 0;
        for (float logit : logits) sum += std::exp(double(logit));
        expect_close(static_cast<float*>(found[i].tensor.data)[t],
                     logits[target[t]] - std::log(sum), 1e-5, "score");
        history.push_back(target[t]);
      }
    }
  }
}

// What the thread sanitizer looks at: one backend and one Config, many calls at once.
void many_threads_share_a_model() {
  const Config config = large_vocabulary();
  ScriptedBackend backend(config, hashed(40));
  const auto work = [&](int64_t number) {
    const Input input({{2 + number % 30}, {3, 4}, {5 + number % 20, 6, 7}});
    SearchOptions options(config.generation);
    options.num_beams = 1 + number % 3;
    options.do_sample = number % 4 >= 2;
    options.seed = static_cast<uint64_t>(number);
    options.no_repeat_ngram_size = 2;
    options.bad_words = {{7}, {8, 9}};
    options.max_new_tokens = 8;
    return ids_of(generate(backend, config, input.lists(), options));
  };
  const int64_t calls = kSanitized ? 64 : 400;
  std::vector<std::vector<std::vector<int64_t>>> expected, found(static_cast<size_t>(calls));
  for (int64_t i = 0; i < calls; ++i) expected.push_back(work(i));
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (int64_t call = next++; call < calls; call = next++) found[call] = work(call);
    });
  }
  for (auto& thread : threads) thread.join();
  for (int64_t i = 0; i < calls; ++i) expect_equal(found[i], expected[i], "call " + show(i));
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(batches_are_bounded_complete_and_longest_first),
      TEST(results_are_in_order_and_do_not_depend_on_the_batches),
      TEST(a_prefix_is_read_in_one_step_and_not_returned),
      TEST(the_start_token_is_put_before_all_prefixes_or_none),
      TEST(several_sequences_of_a_source_are_drawn_independently),
      TEST(forbidding_everything_is_an_error_that_names_the_source),
      TEST(unknown_generation_defaults_keep_generate_from_running),
      TEST(scores_are_those_of_the_targets_in_any_batch),
      TEST(many_threads_share_a_model),
  });
}
