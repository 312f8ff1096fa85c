// log_softmax, argmax and top-k against plain double-precision loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "logits.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

void log_softmax_equals_double_precision() {
  for (size_t count : {1, 5, 16, 17, 63, 1000, 32128}) {
    for (float spread : {0.1f, 3.0f, 40.0f}) {
      const auto logits = random_normal(count, spread, 7);
      const double max = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (float logit : logits) sum += std::exp(double(logit) - max);
      const auto found = log_softmax(logits.data(), static_cast<int64_t>(count));
      for (size_t i = 0; i < count; i += 7) {
        expect_close(found(logits[i]), double(logits[i]) - max - std::log(sum), 1e-6,
                     "log-probability " + show(i) + " of " + show(count));
      }
    }
  }
}

void forbidden_tokens_do_not_disturb_the_sum() {
  const float low = -std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1, low, 2, low};
  expect_close(log_softmax(logits.data(), 4)(2), 2 - std::log(std::exp(1.0) + std::exp(2.0)), 1e-6,
               "log-probability");
}

void what_is_not_finite_is_refused() {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> bad = {NAN, infinity};
  for (float value : bad) {
    for (size_t place : {0, 20, 39}) {
      std::vector<float> logits(40, 1.0f);
      logits[place] = value;
      expect_error(SWITCH_FAILED, {"not finite"}, [&] { log_softmax(logits.data(), 40); });
    }
  }
  const std::vector<float> nothing(40, -infinity);
  expect_error(SWITCH_FAILED, {"not finite"}, [&] { log_softmax(nothing.data(), 40); });
}

void argmax_is_the_lowest_index_on_ties() {
  std::vector<float> values(100, -1.0f);
  values[70] = values[33] = values[99] = 2.0f;
  expect_equal(argmax(values.data(), 100), 33, "argmax");
}

// All continuations of two rows, sorted by a plain stable sort.
void top_k_equals_a_sort_of_everything() {
  for (int64_t count : {3, 64, 65, 1000}) {
    auto logits = random_normal(static_cast<size_t>(2 * count), 2, 11);
    // Few different values, so that there are many ties.
    for (float& logit : logits) logit = std::round(logit * 4) / 4;
    const LogSoftmax first = log_softmax(logits.data(), count);
    const LogSoftmax second = log_softmax(logits.data() + count, count);
    std::vector<Candidate> all;
    for (int64_t i = 0; i < 2 * count; ++i) {
      all.push_back({i < count ? first(logits[i]) + -1.5f : second(logits[i]) + -0.5f, i});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    for (int64_t size : {1, 4, 6}) {
      TopK top(size);
      top.add_row(logits.data(), count, first, -1.5f, 0);
      top.add_row(logits.data() + count, count, second, -0.5f, count);
      for (int64_t i = 0; i < size; ++i) {
        expect_equal(top.best()[i].index, all[i].index, "index " + show(i) + " of " + show(count));
        expect_equal(top.best()[i].score, all[i].score, "score " + show(i));
      }
    }
  }
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(log_softmax_equals_double_precision),
      TEST(forbidden_tokens_do_not_disturb_the_sum),
      TEST(what_is_not_finite_is_refused),
      TEST(argmax_is_the_lowest_index_on_ties),
      TEST(top_k_equals_a_sort_of_everything),
  });
}
