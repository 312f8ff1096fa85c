#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace switch_runtime {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr int64_t kInserted = 128;  // ranks that keeping a sorted list is faster for

float highest(const std::vector<Candidate>& candidates) {
  float max = kForbidden;
  for (const Candidate& candidate : candidates) max = std::max(max, candidate.score);
  return max;
}

double sum_of_exp(const std::vector<Candidate>& candidates, float max) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += std::exp(candidate.score - max);
  return sum;
}

// The value number `rank` from the top, from 1 on.
float value_at(const float* scores, int64_t count, int64_t rank) {
  if (rank <= kInserted) {
    TopK top(rank);
    top.add_row(scores, count, LogSoftmax{0, 0}, 0, 0);
    return top.best().back().score;
  }
  std::vector<float> values(scores, scores + count);
  std::nth_element(values.begin(), values.begin() + (rank - 1), values.end(), std::greater<>());
  return values[rank - 1];
}

template <typename Condition>
void remove_if(std::vector<Candidate>& candidates, Condition condition) {
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), condition),
                   candidates.end());
}

bool by_index(const Candidate& a, const Candidate& b) { return a.index < b.index; }

bool by_score(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.index < b.index;
}

}  // namespace

const std::vector<Candidate>& Warpers::run(float* scores, int64_t count) {
  const auto temperature = static_cast<float>(options_.temperature);
  if (temperature != 1) {
    for (int64_t i = 0; i < count; ++i) scores[i] /= temperature;
  }
  keep_top_k(scores, count);
  if (options_.top_p < 1) keep_top_p();
  if (options_.min_p >= 0) keep_min_p();
  if (options_.typical_p < 1) keep_typical();
  return left_;
}

// Ties with the last one stay, as in transformers.
void Warpers::keep_top_k(const float* scores, int64_t count) {
  float least = std::numeric_limits<float>::lowest();  // what is forbidden is never left
  const int64_t most = std::max(options_.top_k, keep_);
  if (options_.top_k > 0 && most < count) {
    least = std::max(least, value_at(scores, count, most));
  }
  left_.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] >= least) left_.push_back({scores[i], i});
  }
}

// Away go the least likely whose sum is at most 1 - top_p.
void Warpers::keep_top_p() {
  const float max = highest(left_);
  double spare = (1 - options_.top_p) * sum_of_exp(left_, max);
  // Most of a vocabulary is so unlikely that it goes as a whole, without being sorted.
  const float unlikely = max - 16;
  double tail = 0;
  size_t likely = 0;
  for (const Candidate& candidate : left_) {
    if (candidate.score < unlikely) {
      tail += std::exp(candidate.score - max);
    } else {
      ++likely;
    }
  }
  if (tail <= spare && likely >= static_cast<size_t>(keep_)) {
    remove_if(left_, [&](const Candidate& candidate) { return candidate.score < unlikely; });
    spare -= tail;
  }
  std::sort(left_.begin(), left_.end(), by_score);
  double sum = 0;
  while (left_.size() > static_cast<size_t>(keep_)) {
    sum += std::exp(left_.back().score - max);
    if (sum > spare) break;
    left_.pop_back();
  }
  std::sort(left_.begin(), left_.end(), by_index);
}

void Warpers::keep_min_p() {
  sorted_ = left_;
  const size_t keep = std::min(static_cast<size_t>(keep_), sorted_.size());
  std::partial_sort(sorted_.begin(), sorted_.begin() + keep, sorted_.end(), by_score);
  if (keep == 0) return;
  const float max = sorted_[0].score, kept = sorted_[keep - 1].score;
  remove_if(left_, [&](const Candidate& candidate) {
    return candidate.score < kept && std::exp(candidate.score - max) < options_.min_p;
  });
}

// Locally typical sampling: what is about as surprising as the distribution is on average.
// Meister et al., arXiv 2202.00666.
void Warpers::keep_typical() {
  const float max = highest(left_);
  const double sum = sum_of_exp(left_, max), log_sum = std::log(sum);
  double entropy = 0;
  for (const Candidate& candidate : left_) {
    const double log_p = candidate.score - max - log_sum;
    entropy -= log_p * std::exp(log_p);
  }
  const auto distance = [&](const Candidate& candidate) {
    return std::abs(-(candidate.score - max - log_sum) - entropy);
  };
  std::sort(left_.begin(), left_.end(), [&](const Candidate& a, const Candidate& b) {
    const double first = distance(a), second = distance(b);
    return first != second ? first < second : a.index < b.index;
  });
  double reached = 0;
  size_t last = 0;  // the first that reaches the mass, or the last one
  for (; last + 1 < left_.size(); ++last) {
    reached += std::exp(left_[last].score - max) / sum;
    if (reached >= options_.typical_p) break;
  }
  const double limit = left_.empty() ? 0 : distance(left_[last]);
  while (left_.size() > static_cast<size_t>(keep_) && distance(left_.back()) > limit) {
    left_.pop_back();
  }
  std::sort(left_.begin(), left_.end(), by_index);
}

size_t draw_one(const std::vector<Candidate>& candidates, double uniform) {
  const float max = highest(candidates);
  double left = uniform * sum_of_exp(candidates, max);
  size_t last = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double weight = std::exp(candidates[i].score - max);
    if (weight > 0) last = i;
    left -= weight;
    if (left < 0) break;
  }
  return last;
}

// The largest of log p + Gumbel noise are such a draw: Vieira, Gumbel-max trick and weighted
// reservoir sampling (2014). torch.multinomial draws the same way.
std::vector<Candidate> draw_several(const std::vector<Candidate>& candidates, size_t count,
                                    uint64_t seed, Draw draw) {
  struct Key {
    double value;
    size_t at;
  };
  std::vector<Key> keys;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].score == kForbidden) continue;
    draw.choice = candidates[i].index;
    keys.push_back({candidates[i].score - std::log(-std::log(uniform(seed, draw))), i});
  }
  count = std::min(count, keys.size());
  std::partial_sort(keys.begin(), keys.begin() + count, keys.end(),
                    [](const Key& a, const Key& b) { return a.value > b.value; });
  std::vector<Candidate> drawn;
  for (size_t i = 0; i < count; ++i) drawn.push_back(candidates[keys[i].at]);
  return drawn;
}

}  // namespace switch_runtime
