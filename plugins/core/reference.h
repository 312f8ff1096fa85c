// The operators of docs/operators.md as plain loops that sum in double: what the kernels' tests
// compare with. Shares the descriptions of arguments with the kernels and nothing else; not
// shipped.
#ifndef SWITCH_CORE_REFERENCE_H_
#define SWITCH_CORE_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "operators.h"

namespace switch_ops::reference {

using Values = std::vector<double>;

// What the stored weight [row, column] of the matrix `index` of a stack stands for.
double value(const Weight& weight, int64_t index, int64_t row, int64_t column);

// What a variable of a float type holds of x; float32 is taken for exact.
double round_to(WeightType type, double x);

// The int8 values of a row, and the factor that makes them x again. In float32, as the document
// says, so that a tie there is a tie here.
struct Quantised {
  std::vector<int> values;
  double scale;
};
Quantised quantise(const Values& x);

// Outputs are ignored in the arguments; results have the shapes that operators.h gives them.
Values embedding(const int64_t* ids, int64_t tokens, const Weight& table);
Values linear(const float* x, int64_t tokens, const Weight& weight);
Values moe(const Moe& a);

struct KeysAndValues {
  Values key, value;
};
KeysAndValues key_value(const KeyValue& a);

struct Normed {
  Values sum, normed;
};
Normed norm(const NormRows& a);

struct Routes {
  std::vector<int32_t> expert;
  Values gate;
};
Routes route(const Router& a);

Values self_attention(const SelfAttention& a);
Values cached_attention(const CachedAttention& a);
Values cross_attention(const CrossAttention& a);

}  // namespace switch_ops::reference

#endif  // SWITCH_CORE_REFERENCE_H_
