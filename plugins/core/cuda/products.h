// The two products of an MoE layer for many tokens, and what they share with the kernels' hosts.
#ifndef SWITCH_CORE_CUDA_PRODUCTS_H_
#define SWITCH_CORE_CUDA_PRODUCTS_H_

#include "operators.h"

namespace switch_ops::cuda {

// Tokens sorted by expert, token order kept within one; on the device. Those of expert e have the
// places first[e] .. first[e + 1] - 1, and tokens[place] is the token. Dropped tokens have none.
struct Groups {
  int32_t* tokens;  // [tokens]
  int32_t* first;   // [experts + 1]
};

// kHidden: y[place] = act(x[tokens[place]] @ w[e]^T)         hidden values, in sorted order
// kOutput: y[tokens[place]] = gate * (x[place] @ w[e]^T)     back in the order of tokens
enum class Stage { kHidden, kOutput };

struct GroupedProduct {
  Stage stage;
  const void* x;         // [tokens, weight.columns]
  WeightType x_type;     // kInt8: rows that quantise_rows made, for quantised weights
  const float* x_scale;  // [tokens] of int8 rows
  int64_t tokens;        // at most, over all groups
  Groups groups;
  Weight weight;  // [experts, rows, columns]; data and scale on the device

  void* y;            // kHidden [tokens, rows, or rows / 2 where gated]; kOutput [tokens, rows]
  WeightType y_type;  // kOutput: kFloat32
  // kHidden: act of the first half of the rows times the second half where gated
  Activation activation = Activation::kRelu;
  bool is_gated = false;
  // kOutput
  const float* gate = nullptr;  // by token; null: 1
  bool accumulate = false;      // y +=
};

// Sort `expert` ([tokens], null: all 0) into `groups`, and write the rows of dropped tokens to a.y.
void sort_tokens(const Stream& stream, const Moe& a, const Groups& groups, bool accumulate);

// Rows of any float type [rows, columns] as int8 with one scale each (docs/operators.md).
struct QuantisedRows {
  const void* x;
  WeightType x_type;
  int64_t rows, columns;
  int8_t* y;
  float* scale;
};
void quantise_rows(const Stream& stream, const QuantisedRows& a);

// Any types, tokens 16 at a time: a kernel for vectors.
void multiply_vectors(const Stream& stream, const GroupedProduct& a);
// Tensor cores by mma.sync, sm_80 on: x and weight of the same half type, or int8 rows with int8 or
// int4 weights.
void multiply_tiles(const Stream& stream, const GroupedProduct& a);
// Tensor cores by wgmma, sm_90a alone: x and weight of the same half type.
void multiply_wgmma(const Stream& stream, const GroupedProduct& a);
// Whether this build has multiply_wgmma and the current device runs it.
bool has_wgmma();

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_PRODUCTS_H_
