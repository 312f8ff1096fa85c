// What a generate call tells its caller, and what the caller may change or end.
#include <cmath>
#include <vector>

#include "check.h"
#include "generate.h"
#include "scripted.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

struct Heard {
  std::vector<std::vector<int64_t>> tokens;
  std::vector<std::vector<int64_t>> steps;  // of on_logits: rows, length, sources...
  std::vector<int64_t> done;
  int64_t stop_after = INT64_MAX;
};

int32_t hear_token(void* data, int64_t sequence, int64_t token) {
  auto* heard = static_cast<Heard*>(data);
  heard->tokens[sequence].push_back(token);
  return --heard->stop_after < 0;
}

int32_t hear_logits(void* data, const switch_step* step) {
  auto* heard = static_cast<Heard*>(data);
  std::vector<int64_t> seen = {step->rows, step->length};
  seen.insert(seen.end(), step->sources, step->sources + step->rows);
  heard->steps.push_back(seen);
  for (int64_t row = 0; row < step->rows; ++row) {
    // Whatever was chosen last may not be chosen next.
    step->scores[row * step->vocab_size + step->ids[(row + 1) * step->length - 1]] = -INFINITY;
  }
  return --heard->stop_after < 0;
}

int32_t hear_progress(void* data, int64_t done, int64_t total) {
  auto* heard = static_cast<Heard*>(data);
  heard->done.push_back(done);
  heard->done.push_back(total);
  return --heard->stop_after < 0;
}

void tokens_are_heard_as_they_are_chosen() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3, 3}, {4}});
  ScriptedBackend backend(config, hashed(40));
  Heard heard;
  heard.tokens.resize(6);
  SearchOptions options(config.generation);
  options.do_sample = true;
  options.num_return_sequences = 2;
  options.seed = 1;
  options.listener.user_data = &heard;
  options.listener.on_token = hear_token;
  const Generated found = generate(backend, config, input.lists(), options);
  for (size_t i = 0; i < 6; ++i) {
    auto expected = found.sequences[i].ids;
    expected.push_back(-1);
    expect_equal(heard.tokens[i], expected, "tokens of sequence " + show(i));
  }
}

void the_logits_callback_sees_the_live_rows_and_changes_their_scores() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3, 3}, {4}});
  for (int64_t beams : {1, 2}) {
    ScriptedBackend backend(config, hashed(40));
    Heard heard;
    SearchOptions options(config.generation);
    options.num_beams = beams;
    options.max_new_tokens = 12;
    options.listener.user_data = &heard;
    options.listener.on_logits = hear_logits;
    const Generated found = generate(backend, config, input.lists(), options);
    for (const Sequence& sequence : found.sequences) {
      for (size_t i = 1; i < sequence.ids.size(); ++i) {
        expect(sequence.ids[i] != sequence.ids[i - 1], "a forbidden token was chosen");
      }
    }
    expect_equal(heard.steps[0][0], 3 * beams, "rows of the first step");
    expect_equal(heard.steps[0][1], 1, "tokens of the first step");
    expect_equal(heard.steps[0][2], 1, "the longest source is the first row");
    expect_equal(heard.steps[1][1], 2, "tokens of the second step");
  }
}

void progress_counts_finished_sources() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3, 3}, {4}});
  ScriptedBackend backend(config, hashed(40));
  Heard heard;
  SearchOptions options(config.generation);
  options.listener.user_data = &heard;
  options.listener.on_progress = hear_progress;
  options.max_batch_tokens = 1;
  generate(backend, config, input.lists(), options);
  expect_equal(heard.done, std::vector<int64_t>({1, 3, 2, 3, 3, 3}), "done of total");
}

void every_callback_can_end_the_call() {
  const Config config = large_vocabulary();
  const Input input({{2}, {3}});
  for (const int which : {0, 1, 2}) {
    ScriptedBackend backend(config, hashed(40));
    Heard heard;
    heard.tokens.resize(2);
    heard.stop_after = which == 2 ? 0 : 3;
    SearchOptions options(config.generation);
    options.max_new_tokens = 100;
    options.listener.user_data = &heard;
    if (which == 0) options.listener.on_logits = hear_logits;
    if (which == 1) options.listener.on_token = hear_token;
    if (which == 2) options.listener.on_progress = hear_progress;
    const char* names[] = {"on_logits", "on_token", "on_progress"};
    expect_error(SWITCH_CANCELLED, {names[which]},
                 [&] { generate(backend, config, input.lists(), options); });
    if (which < 2) expect(backend.fed.size() <= 4, "it ended at once");
  }
}

int32_t leave_nan(void*, const switch_step* step) {
  step->scores[3] = NAN;
  return 0;
}

void what_a_callback_must_not_leave_is_an_error() {
  const Config config = large_vocabulary();
  const Input input({std::vector<int64_t>{2}});
  ScriptedBackend backend(config, hashed(40));
  SearchOptions options(config.generation);
  options.listener.on_logits = leave_nan;
  expect_error(SWITCH_INVALID_ARGUMENT, {"on_logits left NaN"},
               [&] { generate(backend, config, input.lists(), options); });
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(tokens_are_heard_as_they_are_chosen),
      TEST(the_logits_callback_sees_the_live_rows_and_changes_their_scores),
      TEST(progress_counts_finished_sources),
      TEST(every_callback_can_end_the_call),
      TEST(what_a_callback_must_not_leave_is_an_error),
  });
}
