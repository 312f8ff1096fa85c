// The CUDA kernels in C: SwitchMoE, and the fused operators of a decoder step.
//
// All pointers are device pointers (16-byte aligned) unless they say otherwise. A call checks its
// arguments, puts its kernels on `stream` (a cudaStream_t of the current device) and returns: it
// allocates nothing and waits for nothing, so it may be captured in a CUDA graph. Routes and
// positions are read on the device. Sums have one order: the same inputs give the same bits.
//
// Functions give 0, or -1 where switch_cuda_last_error() (per thread) says why: nothing was
// started then. Formulas: docs/operators.md.
#ifndef SWITCH_CORE_CUDA_SWITCH_CUDA_H_
#define SWITCH_CORE_CUDA_SWITCH_CUDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SWITCH_CUDA_API __attribute__((visibility("default")))

enum {
  SWITCH_CUDA_FLOAT32 = 0,
  SWITCH_CUDA_FLOAT16 = 1,
  SWITCH_CUDA_BFLOAT16 = 2,
  SWITCH_CUDA_INT8 = 3,
  SWITCH_CUDA_INT4 = 4
};
enum {
  SWITCH_CUDA_NO_ACTIVATION = -1,
  SWITCH_CUDA_RELU = 0,
  SWITCH_CUDA_GELU = 1,
  SWITCH_CUDA_GELU_TANH = 2,
  SWITCH_CUDA_SILU = 3
};
enum { SWITCH_CUDA_DROPPED_ZERO = 0, SWITCH_CUDA_DROPPED_PASS = 1 };

// Where kernels run, and how.
typedef struct switch_cuda_stream {
  void* stream;     // cudaStream_t; NULL: the default one
  int32_t overlap;  // 1: a kernel may start while the one before it ends (sm_90 on)
} switch_cuda_stream;

// [count, rows, columns], docs/operators.md "Weights". A row is a multiple of 16 bytes.
typedef struct switch_cuda_weight {
  const void* data;
  const float* scale;  // quantised only: [count, rows, blocks]
  int32_t type;
  int32_t block;  // columns that share a scale; 0: a whole row
  int64_t count, rows, columns;
} switch_cuda_weight;

// y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t]; -1: dropped.
typedef struct switch_cuda_moe {
  const void* x;       // [tokens, d_model]
  int32_t x_type;      // FLOAT32, FLOAT16, BFLOAT16; hidden values are rounded to it
  int32_t activation;  // SWITCH_CUDA_RELU, ...
  int32_t is_gated;    // wi [experts, 2 d_ff, d_model]
  int32_t dropped;     // SWITCH_CUDA_DROPPED_ZERO, ...
  int32_t accumulate;  // 1: y += instead of y =
  int64_t tokens;
  const int32_t* expert;  // [tokens]; NULL: all of expert 0. Outside -1 .. experts - 1: as -1
  const float* gate;      // [tokens]; NULL: all 1
  switch_cuda_weight wi;  // [experts, d_ff, d_model]
  switch_cuda_weight wo;  // [experts, d_model, d_ff]
  float* y;               // [tokens, d_model]
  void* workspace;
  size_t workspace_bytes;
} switch_cuda_moe;

// Bytes of workspace that a call with these shapes and types needs; pointers are not looked at.
// 0 where the call would be refused.
SWITCH_CUDA_API size_t switch_cuda_moe_workspace(const switch_cuda_moe* moe);
SWITCH_CUDA_API int switch_cuda_moe_run(const switch_cuda_stream* stream,
                                        const switch_cuda_moe* moe);

// y = act(n @ weight^T), n = x, or x / sqrt(mean(x^2) + epsilon) * norm. For the few tokens of a
// decoder step: weights are streamed once for every 16 tokens.
typedef struct switch_cuda_linear {
  const void* x;        // [tokens, columns]
  int32_t x_type;       // FLOAT32, FLOAT16, BFLOAT16
  const float* norm;    // [columns], with x_type FLOAT32; NULL: no norm
  int32_t normed_type;  // what n is rounded to, if there is a norm
  float epsilon;
  int64_t tokens;
  switch_cuda_weight weight;  // [rows, columns]; is_gated: [2 outputs, columns]
  int32_t activation;         // or SWITCH_CUDA_NO_ACTIVATION
  int32_t is_gated;
  int32_t accumulate;  // 1: y +=, y_type FLOAT32
  void* y;             // [tokens, outputs]
  int32_t y_type;      // FLOAT32, FLOAT16, BFLOAT16
} switch_cuda_linear;

SWITCH_CUDA_API int switch_cuda_linear_run(const switch_cuda_stream* stream,
                                           const switch_cuda_linear* linear);

// SwitchRouter: sum = x + delta, normed = norm(sum) rounded to normed_type, and the top-1 routes of
// normed.
typedef struct switch_cuda_router {
  const float* x;      // [batch, tokens, columns]
  const float* delta;  // as x, or NULL: 0
  const float* norm;   // [columns]
  float epsilon;
  const float* classifier;  // [experts, columns]
  const float* bias;        // [experts] or NULL
  int64_t batch, tokens, columns, experts;
  int64_t capacity;     // -1: unlimited
  float* sum;           // as x, or NULL: not wanted
  void* normed;         // as x
  int32_t normed_type;  // FLOAT32, FLOAT16, BFLOAT16; gates are rounded to it
  int32_t* expert;      // [batch, tokens]
  float* gate;
} switch_cuda_router;

SWITCH_CUDA_API int switch_cuda_router_run(const switch_cuda_stream* stream,
                                           const switch_cuda_router* router);

// SwitchCachedAttention. The new keys and values go to new_key and new_value, or, where these are
// NULL, into the cache from `position` on.
typedef struct switch_cuda_cached_attention {
  const void* qkv;  // [rows, tokens, 3 * heads * size]
  void* key;        // [rows, heads, capacity, size]
  void* value;
  const int64_t* position;  // [1] tokens that are cached already
  const float* bias;        // [2 * distance + 1, heads]
  int64_t rows, tokens, heads, size, capacity, distance;
  int32_t type;   // of qkv, caches, y and new rows
  void* y;        // [rows, tokens, heads * size]
  void* new_key;  // [rows, heads, tokens, size] or NULL
  void* new_value;
} switch_cuda_cached_attention;

SWITCH_CUDA_API int switch_cuda_cached_attention_run(const switch_cuda_stream* stream,
                                                     const switch_cuda_cached_attention* attention);

// SwitchCrossAttention: row r attends to source r / (rows / batch).
typedef struct switch_cuda_cross_attention {
  const void* q;    // [rows, tokens, heads * size]
  const void* key;  // [batch, heads, source, size]
  const void* value;
  const int64_t* mask;  // [batch, source]
  int64_t rows, tokens, heads, size, batch, source;
  int32_t type;  // of q, key, value and y
  void* y;       // as q
} switch_cuda_cross_attention;

SWITCH_CUDA_API int switch_cuda_cross_attention_run(const switch_cuda_stream* stream,
                                                    const switch_cuda_cross_attention* attention);

SWITCH_CUDA_API const char* switch_cuda_last_error(void);

#ifdef __cplusplus
}
#endif

#endif  // SWITCH_CORE_CUDA_SWITCH_CUDA_H_
