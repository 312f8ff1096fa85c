#include "logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "error.h"

namespace switch_runtime {
namespace {

// Independent lanes, so that the compiler can vectorise without reordering float arithmetic.
constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 64;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

inline float larger(float a, float b) { return a > b ? a : b; }

float max_of(const float* values, int64_t count) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = kLowest;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = larger(values[i + lane], lanes[lane]);
    }
  }
  float max = kLowest;
  for (float lane : lanes) max = larger(lane, max);
  for (; i < count; ++i) max = larger(values[i], max);
  return max;
}

// exp(x) for x <= 0 to about one unit in the last place. The library's expf is a call per element,
// which over a vocabulary costs more than the rest of the search.
inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;      // exp(-87) is next to the smallest normal float
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  // x = n * log(2) + r, log(2) in two parts so that r is exact
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;  // the low bits of `shifted` are n
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

float sum_of_exp(const float* values, int64_t count, float max) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += exp_negative(values[i + lane] - max);
    }
  }
  double sum = 0;
  for (float lane : lanes) sum += lane;
  for (; i < count; ++i) sum += exp_negative(values[i] - max);
  return static_cast<float>(sum);
}

}  // namespace

LogSoftmax log_softmax(const float* logits, int64_t count) {
  const float max = max_of(logits, count);
  // NaN passes through the sum; an infinite maximum would make it NaN.
  const float log_sum = std::isfinite(max) ? std::log(sum_of_exp(logits, count, max)) : NAN;
  if (!std::isfinite(log_sum)) {
    throw Error(SWITCH_FAILED,
                "the model computed logits that are not finite; its weights are probably damaged");
  }
  return LogSoftmax{max, log_sum};
}

int64_t argmax(const float* values, int64_t count) {
  const float max = max_of(values, count);
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] == max) return i;
  }
  return 0;
}

void TopK::add(Candidate candidate) {
  if (!accepts(candidate.score)) return;
  const auto after = [](float score, const Candidate& other) { return score > other.score; };
  best_.insert(std::upper_bound(best_.begin(), best_.end(), candidate.score, after), candidate);
  if (best_.size() > size_) best_.pop_back();
}

void TopK::add_row(const float* logits, int64_t count, const LogSoftmax& log_softmax, float base,
                   int64_t first) {
  for (int64_t start = 0; start < count; start += kChunk) {
    const int64_t end = std::min(count, start + kChunk);
    // The score never falls when the logit rises, rounding included: one test clears a chunk.
    if (!accepts(log_softmax(max_of(logits + start, end - start)) + base)) continue;
    for (int64_t i = start; i < end; ++i) add({log_softmax(logits[i]) + base, first + i});
  }
}

}  // namespace switch_runtime
