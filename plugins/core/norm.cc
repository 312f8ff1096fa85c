// Residual and norm, and the router that reads the result.
#include <cmath>

#include "operators.h"
#include "partition.h"

namespace switch_ops {
namespace {

// Softmax of one row of logits: the largest probability, the lowest index on ties.
void choose(const float* logits, int64_t experts, int32_t* expert, float* gate) {
  float most = logits[0];
  for (int64_t e = 1; e < experts; ++e) most = std::max(most, logits[e]);
  double total = 0;  // over thousands of experts
  int32_t best = -1;
  for (int64_t e = 0; e < experts; ++e) {
    const float power = std::exp(logits[e] - most);
    total += power;
    // Equal probabilities, not equal logits, are a tie: what rounds to 1 is one.
    if (best < 0 && power == 1.0f) best = static_cast<int32_t>(e);
  }
  *expert = best < 0 ? 0 : best;  // logits that are not numbers
  *gate = static_cast<float>(1.0 / total);
}

}  // namespace

void norm(const Context& context, const NormRows& a) {
  over_tokens(context, a.tokens, 2 * a.first.columns, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t at = t * a.first.columns;
      Norm own = a.first;
      own.x += at, own.delta += at, own.sum += at, own.normed += at;
      context.kernels.norm(own);
    }
  });
}

void route(const Context& context, const Router& a) {
  const int64_t tokens = a.batch * a.tokens;
  if (tokens == 0) return;
  float* logits = scratch<float>(Slot::kScores, tokens * a.experts);
  Weight classifier;
  classifier.data = a.classifier;
  classifier.rows = a.experts;
  classifier.columns = a.columns;
  linear(context, a.normed, tokens, classifier, logits);
  over_tokens(context, tokens, 16 * a.experts, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      float* row = logits + t * a.experts;
      for (int64_t e = 0; a.bias && e < a.experts; ++e) row[e] += a.bias[e];
      choose(row, a.experts, a.expert + t, a.gate + t);
    }
  });
  if (a.capacity < 0 || a.capacity >= a.tokens) return;
  int64_t* taken = scratch<int64_t>(Slot::kRoutes, a.experts);
  for (int64_t b = 0; b < a.batch; ++b) {
    std::fill(taken, taken + a.experts, 0);
    for (int64_t t = b * a.tokens; t < (b + 1) * a.tokens; ++t) {
      if (++taken[a.expert[t]] > a.capacity) a.expert[t] = -1;
    }
  }
}

}  // namespace switch_ops
