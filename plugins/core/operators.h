// The operators of docs/operators.md over raw pointers: formula, checks, empty case, dispatch.
//
// Arrays are row-major float32 unless they say otherwise. Wrong arguments throw
// std::invalid_argument; nothing is read outside the given shapes.
#ifndef SWITCH_CORE_OPERATORS_H_
#define SWITCH_CORE_OPERATORS_H_

#include <cstdint>
#include <string>

#include "kernels.h"
#include "parallel.h"
#include "weight.h"

namespace switch_ops {

struct Context {
  const Kernels& kernels;
  Parallel& parallel;
};

enum class Dropped { kZero, kPass };

// By transformers' names; throw std::invalid_argument for others.
Activation parse_activation(const std::string& name);
Dropped parse_dropped(const std::string& name);

// y[t] = row ids[t] of the table, [tokens, columns].
void embedding(const Context& context, const int64_t* ids, int64_t tokens, const Weight& table,
               float* y);

// y = x @ weight^T: x [tokens, columns], y [tokens, rows].
void linear(const Context& context, const float* x, int64_t tokens, const Weight& weight, float* y);

// key and value [batch, heads, tokens, rows / 2 / heads] of x [batch, tokens, columns].
struct KeyValue {
  const float* x;
  int64_t batch, tokens, heads;
  Weight weight;  // [2 * heads * size, columns]
  float* key;
  float* value;
};
void key_value(const Context& context, const KeyValue& a);

// y[t] = gate[t] * (h @ wo[e]^T), e = expert[t]; -1: dropped.
//
//   h = act(x[t] @ wi[e]^T)                                   wi[e] [d_ff, d_model]
//   h = act(x[t] @ wi[e][: d_ff]^T) * (x[t] @ wi[e][d_ff :]^T)   is_gated: wi[e] [2 d_ff, d_model]
struct Moe {
  const void* x;  // [tokens, d_model] of x_type
  int64_t tokens;
  const int32_t* expert;  // [tokens]; null: all of expert 0
  const float* gate;      // [tokens]; null: all 1
  Weight wi, wo;          // [experts, d_ff or 2 d_ff, d_model], [experts, d_model, d_ff]
  Activation activation;
  Dropped dropped;
  float* y;
  bool is_gated = false;
  WeightType x_type = WeightType::kFloat32;  // on a CPU no other
};
void moe(const Context& context, const Moe& a);

// sum = x + delta, normed = sum / sqrt(mean(sum^2) + epsilon) * weight; [tokens, columns].
struct NormRows {
  Norm first;  // of the first token; the others follow
  int64_t tokens;
};
void norm(const Context& context, const NormRows& a);

// Top-1 routing of normed [batch, tokens, columns]; capacity -1: unlimited.
struct Router {
  const float* normed;
  int64_t batch, tokens, columns, experts;
  const float* classifier;  // [experts, columns]
  const float* bias;        // [experts] or null
  int64_t capacity;
  int32_t* expert;  // [batch, tokens]
  float* gate;
};
void route(const Context& context, const Router& a);

// y [batch, tokens, heads * size] of qkv [batch, tokens, 3 * heads * size].
struct SelfAttention {
  const float* qkv;
  const int64_t* mask;  // [batch, tokens]
  const float* bias;    // [2 * distance + 1, heads]
  int64_t batch, tokens, heads, size, distance;
  float* y;
};
void self_attention(const Context& context, const SelfAttention& a);

// Keys: the first `position` of `capacity` cached ones, then the new ones of qkv.
struct CachedAttention {
  const float* qkv;  // [rows, tokens, 3 * heads * size]
  const float* key;  // [rows, heads, capacity, size]
  const float* value;
  const float* bias;  // [2 * distance + 1, heads]
  int64_t rows, tokens, heads, size, capacity, position, distance;
  float* y;        // [rows, tokens, heads * size]
  float* new_key;  // [rows, heads, tokens, size]
  float* new_value;
};
void cached_attention(const Context& context, const CachedAttention& a);

// Row r attends to source r / (rows / batch).
struct CrossAttention {
  const float* q;    // [rows, tokens, heads * size]
  const float* key;  // [batch, heads, source, size]
  const float* value;
  const int64_t* mask;  // [batch, source]
  int64_t rows, tokens, heads, size, batch, source;
  float* y;  // as q
};
void cross_attention(const Context& context, const CrossAttention& a);

}  // namespace switch_ops

#endif  // SWITCH_CORE_OPERATORS_H_
