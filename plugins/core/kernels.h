// The inner loops, once for each instruction set; everything else of the operators is above them.
#ifndef SWITCH_CORE_KERNELS_H_
#define SWITCH_CORE_KERNELS_H_

#include <cstdint>
#include <vector>

#include "weight.h"

namespace switch_ops {

enum class Activation { kRelu, kGelu, kGeluTanh, kSilu };

// Inputs of a product: rows of `stride` bytes. Float weights meet plain float32 rows; quantised
// ones meet rows that `prepare` of the same instruction set made.
struct Inputs {
  const void* data;
  int64_t stride;

  const char* row(int64_t t) const { return static_cast<const char*>(data) + t * stride; }
};

// y[t, o] = sum over i of x[t, i] * w[o, i], for the rows t in `tokens`.
struct Product {
  Weight weight;  // one matrix
  Inputs x;
  const int32_t* tokens = nullptr;  // rows of x and y; null: 0 .. count - 1
  int64_t count = 0;
  float* y = nullptr;  // y[t * y_stride + o]
  int64_t y_stride = 0;
  bool relu = false;
};

// y[t, n] = sum over j of p[t, j] * v[j, n]; strides in floats.
struct Mix {
  const float* p;
  int64_t p_stride;
  const float* v;
  int64_t v_stride;
  float* y;
  int64_t y_stride;
  int64_t rows, inner, columns;
  bool accumulate;  // add to y
};

// sum = x + delta, normed = sum / sqrt(mean(sum^2) + epsilon) * weight, for one token.
struct Norm {
  const float* x;
  const float* delta;
  const float* weight;
  float epsilon;
  int64_t columns;
  float* sum;
  float* normed;
};

struct Kernels {
  const char* name;
  // Bytes of one prepared row for quantised weights of `type`.
  int64_t (*prepared_stride)(WeightType type, int64_t columns);
  // Quantise one row as docs/operators.md says, into `prepared` (64-byte aligned).
  void (*prepare)(WeightType type, const float* x, int64_t columns, void* prepared);
  // The outputs first <= o < last.
  void (*product)(const Product& product, int64_t first, int64_t last);
  void (*mix)(const Mix& mix);
  // exp(x - max) / sum, in place.
  void (*softmax)(float* x, int64_t count);
  void (*norm)(const Norm& norm);
  // Row `row` of a weight as float32.
  void (*decode_row)(const Weight& weight, int64_t row, float* out);
  // h = act(h), times `factor` if that is not null; `count` of each.
  void (*activate)(Activation activation, float* h, const float* factor, int64_t count);
  // Load `bytes` (a multiple of 4096) at `streams` places in turn and do nothing with them: what
  // memory can give at most. The result only keeps the loads from being optimised away.
  float (*read)(const void* data, int64_t bytes, int streams);
};

// The fastest that this processor runs, or the one that $SWITCH_KERNELS names.
// Throws std::invalid_argument for a name that is unknown or that this processor cannot run.
const Kernels& kernels();

// By name (portable, avx2, avx512, avx512_vnni); null where unknown or not runnable here.
const Kernels* find_kernels(const char* name);

// Names that this processor runs, slowest first.
std::vector<const char*> available_kernels();

}  // namespace switch_ops

#endif  // SWITCH_CORE_KERNELS_H_
