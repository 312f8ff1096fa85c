// Random numbers against published vectors, the draws against their probabilities, and what the
// options of sampling leave against plain loops over sorted probabilities.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "check.h"
#include "sampling.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

std::vector<int64_t> left_of(const SearchOptions& options, std::vector<float> scores,
                             int64_t keep = 1) {
  Warpers warpers(options, keep);
  std::vector<int64_t> tokens;
  for (const Candidate& candidate :
       warpers.run(scores.data(), static_cast<int64_t>(scores.size()))) {
    tokens.push_back(candidate.index);
  }
  return tokens;
}

SearchOptions all_off() {
  SearchOptions options;
  options.top_k = 0;
  return options;
}

// The vectors of Random123 (Salmon et al.): counter, key, result.
void philox_gives_the_published_numbers() {
  const PhiloxBlock zero = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  expect(philox({0, 0, 0, 0}, 0) == zero, "zeros");
  const uint32_t ones = 0xffffffff;
  const PhiloxBlock all = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  expect(philox({ones, ones, ones, ones}, ~uint64_t{0}) == all, "ones");
  const PhiloxBlock pi = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  expect(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) == pi, "pi");
}

// Probabilities in double, by descending score.
struct Ranked {
  std::vector<size_t> order;
  std::vector<double> p;

  explicit Ranked(const std::vector<float>& scores) : order(scores.size()), p(scores.size()) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    double sum = 0;
    for (float score : scores) sum += std::exp(double(score));
    for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp(double(scores[order[i]])) / sum;
  }

  std::vector<int64_t> first(size_t count) const {
    std::vector<int64_t> tokens(order.begin(), order.begin() + std::min(count, order.size()));
    std::sort(tokens.begin(), tokens.end());
    return tokens;
  }
};

void top_k_keeps_the_k_best_and_ties_with_the_last() {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto scores = random_normal(300, 2, seed);
    for (int64_t k : {1, 5, 299, 300, 1000}) {
      SearchOptions options = all_off();
      options.top_k = k;
      expect_equal(left_of(options, scores), Ranked(scores).first(static_cast<size_t>(k)), "top_k");
    }
  }
  SearchOptions options = all_off();
  options.top_k = 2;
  expect_equal(left_of(options, {1, 5, 3, 3, 0}), std::vector<int64_t>({1, 2, 3}), "a tie");
  expect_equal(left_of(options, {1, 5, 3, 2}, 3), std::vector<int64_t>({1, 2, 3}), "keep 3");
}

void top_p_keeps_the_fewest_that_reach_p() {
  for (unsigned seed = 0; seed < 40; ++seed) {
    const auto scores = random_normal(1 + seed * 37, seed % 2 ? 1.0f : 8.0f, seed);
    const Ranked ranked(scores);
    for (double top_p : {0.05, 0.5, 0.9, 0.999}) {
      size_t count = 0;
      for (double sum = 0; count < scores.size() && sum < top_p; ++count) sum += ranked.p[count];
      SearchOptions options = all_off();
      options.top_p = top_p;
      expect_equal(left_of(options, scores), ranked.first(count), "top_p " + show(top_p));
      expect_equal(left_of(options, scores, 4), ranked.first(std::max<size_t>(4, count)), "keep 4");
    }
  }
}

void min_p_keeps_what_is_likely_enough_beside_the_best() {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto scores = random_normal(400, 2, seed);
    const Ranked ranked(scores);
    for (double min_p : {0.0, 0.01, 0.3, 1.0}) {
      size_t count = 0;
      while (count < scores.size() && ranked.p[count] >= min_p * ranked.p[0]) ++count;
      SearchOptions options = all_off();
      options.min_p = min_p;
      expect_equal(left_of(options, scores), ranked.first(count), "min_p " + show(min_p));
      expect_equal(left_of(options, scores, 3), ranked.first(std::max<size_t>(3, count)), "keep 3");
    }
  }
}

void typical_p_keeps_what_is_as_surprising_as_the_average() {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto scores = random_normal(200, 1.5, seed);
    const Ranked ranked(scores);
    double entropy = 0;
    for (double p : ranked.p) entropy -= p * std::log(p);
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::abs(-std::log(ranked.p[a]) - entropy) <
             std::abs(-std::log(ranked.p[b]) - entropy);
    });
    for (double mass : {0.1, 0.5, 0.95}) {
      std::vector<int64_t> expected;
      double sum = 0;
      for (size_t i = 0; i < order.size() && sum < mass; ++i) {
        expected.push_back(static_cast<int64_t>(ranked.order[order[i]]));
        sum += ranked.p[order[i]];
      }
      std::sort(expected.begin(), expected.end());
      SearchOptions options = all_off();
      options.typical_p = mass;
      expect_equal(left_of(options, scores), expected, "typical_p " + show(mass));
    }
  }
}

void forbidden_tokens_are_never_left_and_the_temperature_scales() {
  SearchOptions options = all_off();
  options.temperature = 0.5;
  std::vector<float> scores = {1, -INFINITY, 2, -INFINITY};
  Warpers warpers(options, 3);
  const auto left = warpers.run(scores.data(), 4);
  expect_equal(left.size(), size_t{2}, "tokens left");
  expect_close(left[0].score, 2, 0, "score 0");
  expect_close(left[1].score, 4, 0, "score 1");
  std::vector<float> none(4, -INFINITY);
  expect(warpers.run(none.data(), 4).empty(), "nothing is left of nothing");
}

std::vector<Candidate> some_candidates() {
  return {{0, 3}, {1.5f, 4}, {-1, 10}, {-INFINITY, 11}, {0.5f, 20}};
}

std::vector<double> probabilities() {
  std::vector<double> p;
  double sum = 0;
  for (const Candidate& candidate : some_candidates()) {
    p.push_back(std::exp(double(candidate.score)));
    sum += p.back();
  }
  for (double& value : p) value /= sum;
  return p;
}

void one_draw_is_the_inverse_of_the_distribution() {
  const auto candidates = some_candidates();
  const auto p = probabilities();
  double below = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) {
      expect_equal(draw_one(candidates, below + 1e-6), i, "just above the lower end");
      expect_equal(draw_one(candidates, below + p[i] - 1e-6), i, "just below the upper end");
    }
    below += p[i];
  }
  expect_equal(draw_one(candidates, 1.0 - 1e-17), size_t{4}, "the very end");
}

// Pearson's statistic of counts against probabilities; degrees of freedom: one less than there are.
double chi_square(const std::vector<double>& counts, const std::vector<double>& p, double draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (p[i] == 0) {
      expect(counts[i] == 0, "something impossible was drawn");
      continue;
    }
    sum += (counts[i] - draws * p[i]) * (counts[i] - draws * p[i]) / (draws * p[i]);
  }
  return sum;
}

void uniform_numbers_are_uniform_in_every_direction() {
  const double limit = 148.2;  // 99.9 % of 99 degrees of freedom
  for (const int axis : {0, 1, 2, 3}) {
    std::vector<double> counts(100, 0);
    for (int64_t i = 0; i < 100000; ++i) {
      Draw draw = {7, 7, 7};
      if (axis == 0) draw.source = i;
      if (axis == 1) draw.step = i;
      if (axis == 2) draw.choice = i;
      const double value = uniform(axis == 3 ? static_cast<uint64_t>(i) : 5, draw);
      expect(value > 0 && value < 1, "inside (0, 1)");
      counts[static_cast<size_t>(value * 100)] += 1;
    }
    const double found = chi_square(counts, std::vector<double>(100, 0.01), 100000);
    expect(found < limit, "chi-square " + show(found));
  }
}

// Drawing without putting back: the probability of every ordered pair is p_a * p_b / (1 - p_a).
void several_draws_have_the_probabilities_of_drawing_one_after_the_other() {
  const auto candidates = some_candidates();
  const auto p = probabilities();
  const int64_t draws = 50000;
  const size_t size = candidates.size();
  std::vector<double> counts(size * size, 0), expected(size * size, 0);
  for (size_t a = 0; a < size; ++a) {
    for (size_t b = 0; b < size; ++b) {
      if (a != b) expected[a * size + b] = p[a] * p[b] / (1 - p[a]);
    }
  }
  for (int64_t i = 0; i < draws; ++i) {
    const auto drawn = draw_several(candidates, 2, 9, {i, 0, 0});
    expect_equal(drawn.size(), size_t{2}, "drawn");
    const auto place = [&](int64_t index) {
      size_t at = 0;
      while (candidates[at].index != index) ++at;
      return at;
    };
    counts[place(drawn[0].index) * size + place(drawn[1].index)] += 1;
  }
  const double found = chi_square(counts, expected, static_cast<double>(draws));
  expect(found < 31.26, "chi-square " + show(found));  // 99.9 % of 11 degrees of freedom
  expect_equal(draw_several(candidates, 9, 1, {0, 0, 0}).size(), size_t{4},
               "all that are possible");
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(philox_gives_the_published_numbers),
      TEST(top_k_keeps_the_k_best_and_ties_with_the_last),
      TEST(top_p_keeps_the_fewest_that_reach_p),
      TEST(min_p_keeps_what_is_likely_enough_beside_the_best),
      TEST(typical_p_keeps_what_is_as_surprising_as_the_average),
      TEST(forbidden_tokens_are_never_left_and_the_temperature_scales),
      TEST(one_draw_is_the_inverse_of_the_distribution),
      TEST(uniform_numbers_are_uniform_in_every_direction),
      TEST(several_draws_have_the_probabilities_of_drawing_one_after_the_other),
  });
}
