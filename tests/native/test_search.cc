// Greedy and beam search over scripted logits, compared with enumerations and simulations that
// share no code with the searches.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "generate.h"
#include "scripted.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

struct Scored {
  std::vector<int64_t> ids;  // with eos
  double score;
};

double log_probability(const std::vector<float>& logits, int64_t token) {
  double sum = 0;
  for (float logit : logits) sum += std::exp(double(logit));
  return logits[token] - std::log(sum);
}

double score_of(int64_t source, const std::vector<int64_t>& ids, int64_t vocab, double penalty) {
  History history = {0};
  double sum = 0;
  for (int64_t token : ids) {
    sum += log_probability(hashed_logits(source, history, vocab), token);
    history.push_back(token);
  }
  return sum / std::pow(double(ids.size()), penalty);
}

// Every sequence that ends with eos (1) or has `most` tokens.
void enumerate(int64_t source, int64_t vocab, size_t most, double penalty,
               std::vector<int64_t>& prefix, std::vector<Scored>& all) {
  const bool ended = !prefix.empty() && (prefix.back() == 1 || prefix.size() == most);
  if (ended) {
    all.push_back({prefix, score_of(source, prefix, vocab, penalty)});
    return;
  }
  for (int64_t token = 0; token < vocab; ++token) {
    prefix.push_back(token);
    enumerate(source, vocab, most, penalty, prefix, all);
    prefix.pop_back();
  }
}

std::vector<int64_t> with_eos(const Sequence& sequence) {
  std::vector<int64_t> ids = sequence.ids;
  if (sequence.eos >= 0) ids.push_back(sequence.eos);
  return ids;
}

Generated run(ScriptedBackend& backend, const Config& config, const SearchOptions& options,
              const std::vector<int64_t>& firsts) {
  // One token per source: its own name.
  std::vector<switch_ids> rows;
  for (const int64_t& first : firsts) rows.push_back({&first, 1});
  return generate(backend, config, {rows.data(), static_cast<int64_t>(rows.size())}, options);
}

// Scripted tokens: `plan[source]`, then eos for ever.
Script spelled(const std::vector<std::vector<int64_t>>& plan, int64_t vocab) {
  return [=](int64_t source, const History& history) {
    std::vector<float> logits(static_cast<size_t>(vocab), 0.0f);
    const auto& tokens = plan[source];
    const size_t step = history.size() - 1;
    logits[step < tokens.size() ? tokens[step] : 1] = 5;
    return logits;
  };
}

void greedy_stops_each_row_at_its_eos_and_drops_it() {
  const Config config = make_config();
  ScriptedBackend backend(config, spelled({{2, 3}, {4, 4, 5, 2}}, config.vocab_size));
  SearchOptions options(config.generation);
  const Generated result = run(backend, config, options, {0, 1});
  expect_equal(result.sequences[0].ids, std::vector<int64_t>({2, 3}), "row 0");
  expect_equal(result.sequences[1].ids, std::vector<int64_t>({4, 4, 5, 2}), "row 1");
  expect_equal(result.sequences[0].eos, 1, "eos of row 0");
  expect_equal(result.steps, 5, "steps");
  const std::vector<std::vector<int64_t>> fed = {{0, 0}, {2, 4}, {3, 4}, {5}, {2}};
  expect_equal(backend.fed, fed, "tokens fed");
}

void greedy_is_cut_at_the_length_limit() {
  const Config config = make_config();
  ScriptedBackend backend(config, spelled({{2, 3, 4, 5}}, config.vocab_size));
  SearchOptions options(config.generation);
  options.max_new_tokens = 3;
  const Generated result = run(backend, config, options, {0});
  expect_equal(result.sequences[0].ids, std::vector<int64_t>({2, 3, 4}), "ids");
  expect_equal(result.sequences[0].eos, -1, "eos");
  expect_equal(result.steps, 3, "steps");
}

void greedy_scores_every_token_and_the_eos() {
  const Config config = make_config();
  for (int64_t source = 0; source < config.vocab_size; ++source) {
    ScriptedBackend backend(config, hashed(config.vocab_size));
    SearchOptions options(config.generation);
    options.length_penalty = 0.5;
    options.max_new_tokens = 30;
    const Sequence sequence = run(backend, config, options, {source}).sequences[0];
    expect_close(sequence.score, score_of(source, with_eos(sequence), config.vocab_size, 0.5), 1e-5,
                 "score");
  }
}

void min_new_tokens_keeps_eos_away() {
  const Config config = make_config();
  for (int64_t beams : {1, 3}) {
    ScriptedBackend backend(config, spelled({{}}, config.vocab_size));
    SearchOptions options(config.generation);
    options.num_beams = beams;
    options.min_new_tokens = 4;
    const Sequence sequence = run(backend, config, options, {0}).sequences[0];
    expect_equal(sequence.ids.size(), 4u, "tokens before eos");
    expect_equal(sequence.eos, 1, "eos");
  }
}

void any_of_several_eos_tokens_ends_a_sequence() {
  auto document = make_document();
  document["tokens"]["eos"] = {4, 1, 4};
  const Config config = parse_config(document.dump(), "dir");
  for (int64_t beams : {1, 2}) {
    ScriptedBackend backend(config, spelled({{2, 4, 2}}, config.vocab_size));
    SearchOptions options(config.generation);
    options.num_beams = beams;
    const Sequence sequence = run(backend, config, options, {0}).sequences[0];
    expect_equal(sequence.ids, std::vector<int64_t>({2}), "ids");
    expect_equal(sequence.eos, 4, "eos");
  }
}

void wide_beam_search_finds_the_best_of_all_sequences() {
  Sizes sizes;
  sizes.vocab = 5;
  const Config config = make_config(sizes);
  for (double penalty : {0.0, 1.0, 2.0, -1.0}) {
    for (int64_t source = 0; source < (kSanitized ? 1 : 5); ++source) {
      std::vector<Scored> all;
      std::vector<int64_t> prefix;
      enumerate(source, 5, 4, penalty, prefix, all);
      std::stable_sort(all.begin(), all.end(),
                       [](const Scored& a, const Scored& b) { return a.score > b.score; });
      ScriptedBackend backend(config, hashed(5));
      SearchOptions options(config.generation);
      options.num_beams = 400;  // more than there are sequences
      options.num_return_sequences = 6;
      options.max_new_tokens = 4;
      options.length_penalty = penalty;
      options.early_stopping = SWITCH_EARLY_STOPPING_NEVER;
      const auto found = run(backend, config, options, {source}).sequences;
      for (size_t i = 0; i < found.size(); ++i) {
        expect_equal(with_eos(found[i]), all[i].ids, "sequence " + show(i));
        expect_close(found[i].score, all[i].score, 1e-5, "score " + show(i));
      }
    }
  }
}

void beams_keep_their_own_cache_rows_over_many_steps_and_buckets() {
  Sizes sizes;
  sizes.vocab = 12;
  const Config config = make_config(sizes);
  const int64_t steps = kSanitized ? 40 : 150;  // past a bucket in any case
  for (int64_t beams : {2, 3, 5}) {
    ScriptedBackend backend(config, hashed(12));
    SearchOptions options(config.generation);
    options.num_beams = beams;
    options.num_return_sequences = beams;
    options.max_new_tokens = steps;
    options.min_new_tokens = steps - 1;
    const auto found = run(backend, config, options, {2, 3, 7}).sequences;
    expect_equal(backend.encoder_runs, 1, "encoder runs");
    const int64_t sources[] = {2, 3, 7};
    for (size_t i = 0; i < found.size(); ++i) {
      const double expected = score_of(sources[i / beams], with_eos(found[i]), 12, 1.0);
      expect_close(found[i].score, expected, 1e-5, "score " + show(i));
    }
  }
}

void the_cache_grows_in_buckets_up_to_what_is_needed() {
  const Config config = make_config();
  ScriptedBackend backend(config, hashed(config.vocab_size));
  SearchOptions options(config.generation);
  options.max_new_tokens = 150;
  options.min_new_tokens = 150;
  run(backend, config, options, {2});
  auto capacities = backend.capacities;
  capacities.erase(std::unique(capacities.begin(), capacities.end()), capacities.end());
  expect_equal(capacities, std::vector<int64_t>({32, 64, 128, 150}), "capacities");
}

void a_source_decodes_alone_as_in_a_batch() {
  const Config config = make_config();
  for (int64_t beams : {1, 3}) {
    SearchOptions options(config.generation);
    options.num_beams = beams;
    ScriptedBackend together(config, hashed(config.vocab_size));
    const auto batch = run(together, config, options, {2, 3, 5}).sequences;
    for (size_t i = 0; i < 3; ++i) {
      ScriptedBackend alone(config, hashed(config.vocab_size));
      const int64_t source[] = {2, 3, 5};
      const auto one = run(alone, config, options, {source[i]}).sequences[0];
      expect_equal(batch[i].ids, one.ids, "source " + show(i));
      expect_close(batch[i].score, one.score, 0, "score " + show(i));
    }
  }
}

void a_ragged_batch_is_padded_on_the_right_and_masked() {
  const Config config = make_config();
  ScriptedBackend backend(config, hashed(config.vocab_size));
  const std::vector<int64_t> ids = {5, 4, 3, 2, 5, 4};
  const switch_ids rows[] = {{&ids[0], 1}, {&ids[1], 3}, {&ids[4], 2}};
  generate(backend, config, {rows, 3}, SearchOptions(config.generation));
  // Longest first.
  expect_equal(backend.encoder_ids, std::vector<int64_t>({4, 3, 2, 5, 4, 0, 5, 0, 0}), "ids");
  expect_equal(backend.encoder_mask, std::vector<int64_t>({1, 1, 1, 1, 1, 0, 1, 0, 0}), "mask");
}

void cancelling_ends_the_call_within_one_step() {
  const Config config = make_config();
  for (int64_t beams : {1, 4}) {
    volatile int32_t cancel = 0;
    ScriptedBackend backend(config, hashed(config.vocab_size));
    backend.after_step = [&] { cancel = backend.fed.size() == 3; };
    SearchOptions options(config.generation);
    options.num_beams = beams;
    options.min_new_tokens = 20;
    options.listener.cancel = &cancel;
    expect_error(SWITCH_CANCELLED, {"cancelled"}, [&] { run(backend, config, options, {2}); });
    expect_equal(backend.fed.size(), 3u, "steps run");
  }
}

void logits_that_are_not_finite_are_an_error() {
  const Config config = make_config();
  for (int64_t beams : {1, 2}) {
    ScriptedBackend backend(
        config, [](int64_t, const History&) { return std::vector<float>{0, 1, 2, NAN, 4, 5}; });
    SearchOptions options(config.generation);
    options.num_beams = beams;
    expect_error(SWITCH_FAILED, {"not finite"}, [&] { run(backend, config, options, {2}); });
  }
}

void wrong_options_are_all_reported_at_once() {
  const Config config = make_config();
  auto options = default_options(config);
  options.num_beams = -2;
  options.max_new_tokens = 0;
  options.max_length = 1;
  options.min_new_tokens = -2;
  options.length_penalty = NAN;
  options.early_stopping = 7;
  options.num_return_sequences = 3;
  expect_error(SWITCH_INVALID_ARGUMENT,
               {"num_beams is -2", "max_new_tokens is 0", "max_length is 1", "min_new_tokens is -2",
                "length_penalty", "early_stopping is 7", "num_return_sequences is 3"},
               [&] { read_search_options(config, options, 1); });
}

void what_cannot_fit_in_memory_is_refused_before_it_starts() {
  const Config config = make_config();
  ScriptedBackend backend(config, hashed(config.vocab_size));
  SearchOptions options(config.generation);
  options.max_new_tokens = INT64_MAX / 4;
  expect_error(SWITCH_OUT_OF_MEMORY, {"too long for memory", "max_new_tokens"},
               [&] { run(backend, config, options, {2}); });
  options.max_new_tokens = 20;
  options.num_beams = INT32_MAX;
  expect_error(SWITCH_OUT_OF_MEMORY, {"beams"}, [&] { run(backend, config, options, {2}); });
  expect_error(SWITCH_OUT_OF_MEMORY, {"the encoder"}, [&] {
    const switch_ids row = {nullptr, int64_t{1} << 40};
    make_sources(config, {&row, 1}, {0});
  });
  expect_equal(backend.encoder_runs, 0, "encoder runs");
}

void bad_sources_are_named() {
  const Config config = make_config();
  ScriptedBackend backend(config, hashed(config.vocab_size));
  const std::vector<int64_t> ids = {2, 3, 6};
  const switch_ids good = {&ids[0], 1}, unknown = {&ids[1], 2}, empty = {&ids[0], 0};
  const switch_ids negative = {&ids[0], -4}, nowhere = {nullptr, 2};
  const auto call = [&](std::vector<switch_ids> rows, int64_t batch) {
    return [&backend, &config, rows, batch] {
      generate(backend, config, {rows.data(), batch}, SearchOptions(config.generation));
    };
  };
  expect_error(SWITCH_INVALID_ARGUMENT, {"empty batch"}, call({good}, 0));
  expect_error(SWITCH_INVALID_ARGUMENT, {"empty batch", "-1"}, call({good}, -1));
  expect_error(SWITCH_INVALID_ARGUMENT, {"source 1 is empty"}, call({good, empty}, 2));
  expect_error(SWITCH_INVALID_ARGUMENT, {"source 0", "-4", "source 1", "NULL"},
               call({negative, nowhere}, 2));
  expect_error(SWITCH_INVALID_ARGUMENT, {"source 1: token 1 is 6", "0 to 5"},
               call({good, unknown}, 2));
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(greedy_stops_each_row_at_its_eos_and_drops_it),
      TEST(greedy_is_cut_at_the_length_limit),
      TEST(greedy_scores_every_token_and_the_eos),
      TEST(min_new_tokens_keeps_eos_away),
      TEST(any_of_several_eos_tokens_ends_a_sequence),
      TEST(wide_beam_search_finds_the_best_of_all_sequences),
      TEST(beams_keep_their_own_cache_rows_over_many_steps_and_buckets),
      TEST(the_cache_grows_in_buckets_up_to_what_is_needed),
      TEST(a_source_decodes_alone_as_in_a_batch),
      TEST(a_ragged_batch_is_padded_on_the_right_and_masked),
      TEST(cancelling_ends_the_call_within_one_step),
      TEST(logits_that_are_not_finite_are_an_error),
      TEST(wrong_options_are_all_reported_at_once),
      TEST(what_cannot_fit_in_memory_is_refused_before_it_starts),
      TEST(bad_sources_are_named),
  });
}
