// The operators between the weights: norms, routing, attention.
#ifndef SWITCH_ORT_BLOCK_OPS_H_
#define SWITCH_ORT_BLOCK_OPS_H_

#include "custom_op.h"

namespace switch_ort {

// Shared by SwitchNorm and SwitchRouter: x + delta into `sum`, its norm into `normed`.
inline void add_and_normalise(Call& call, const Array& x, float epsilon, float* sum,
                              float* normed) {
  const Array delta = call.input(1), weight = call.input(2);
  expect(call.name(), "elements of delta", delta.count(), x.count());
  expect(call.name(), "elements of weight", weight.count(), x.last());
  std::vector<float> unwanted(sum ? 0 : static_cast<size_t>(x.count()));
  switch_ops::norm(call.context(), {{x.as<float>(), delta.as<float>(), weight.as<float>(), epsilon,
                                     x.last(), sum ? sum : unwanted.data(), normed},
                                    x.rows()});
}

class Norm {
 public:
  static constexpr const char* kName = "SwitchNorm";
  static constexpr Slot kInputs[] = {{kFloat}, {kFloat}, {kFloat}};
  static constexpr Slot kOutputs[] = {{kFloat, true}, {kFloat}};

  explicit Norm(const Info& info) : epsilon_(info.real("epsilon", 1e-6f)) {}

  void compute(Call& call) const {
    const Array x = call.input(0);
    float* sum = call.output_like(0, x);
    add_and_normalise(call, x, epsilon_, sum, call.output_like(1, x));
  }

 private:
  float epsilon_;
};

class Router {
 public:
  static constexpr const char* kName = "SwitchRouter";
  static constexpr Slot kInputs[] = {{kFloat}, {kFloat}, {kFloat}, {kFloat}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}, {kFloat}, {kInt32}, {kFloat}};

  explicit Router(const Info& info)
      : epsilon_(info.real("epsilon", 1e-6f)), capacity_(info.integer("capacity", -1)) {}

  void compute(Call& call) const {
    const Array x = call.input(0, "x", 3), classifier = call.input(3, "classifier", 2);
    expect(kName, "the last axis of classifier", classifier.last(), x.last());
    const Array bias = call.input(4);
    if (!bias.empty()) expect(kName, "elements of bias", bias.count(), classifier.shape[0]);
    float* normed = call.output_like(1, x);
    add_and_normalise(call, x, epsilon_, call.output_like(0, x), normed);
    const std::vector<int64_t> tokens = {x.shape[0], x.shape[1]};
    switch_ops::route(call.context(),
                      {normed, x.shape[0], x.shape[1], x.last(), classifier.shape[0],
                       classifier.as<float>(), bias.as<float>(), capacity_,
                       call.output<int32_t>(2, tokens), call.output<float>(3, tokens)});
  }

 private:
  float epsilon_;
  int64_t capacity_;
};

// heads of `bias` [2 M + 1, heads], which must divide the width of one of q, k and v.
inline int64_t heads_of(const char* name, const Array& bias, int64_t width) {
  expect(name, "rows of bias modulo 2", bias.shape[0] % 2, 1);
  expect(name, "width modulo heads", bias.last() > 0 ? width % bias.last() : 1, 0);
  return bias.last();
}

class SelfAttention {
 public:
  static constexpr const char* kName = "SwitchSelfAttention";
  static constexpr Slot kInputs[] = {{kFloat}, {kInt64}, {kFloat}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit SelfAttention(const Info&) {}

  void compute(Call& call) const {
    const Array qkv = call.input(0, "qkv", 3), mask = call.input(1, "mask", 2);
    const Array bias = call.input(2, "bias", 2);
    const int64_t batch = qkv.shape[0], tokens = qkv.shape[1], width = qkv.last() / 3;
    const int64_t heads = heads_of(kName, bias, width);
    expect(kName, "elements of mask", mask.count(), batch * tokens);
    switch_ops::self_attention(
        call.context(),
        {qkv.as<float>(), mask.as<int64_t>(), bias.as<float>(), batch, tokens, heads, width / heads,
         bias.shape[0] / 2, call.output<float>(0, {batch, tokens, width})});
  }
};

class CachedAttention {
 public:
  static constexpr const char* kName = "SwitchCachedAttention";
  static constexpr Slot kInputs[] = {{kFloat}, {kFloat}, {kFloat}, {kInt64}, {kFloat}};
  static constexpr Slot kOutputs[] = {{kFloat}, {kFloat}, {kFloat}};

  explicit CachedAttention(const Info&) {}

  void compute(Call& call) const {
    const Array qkv = call.input(0, "qkv", 3), key = call.input(1, "key", 4);
    const Array value = call.input(2, "value", 4), bias = call.input(4, "bias", 2);
    const int64_t rows = qkv.shape[0], tokens = qkv.shape[1], width = qkv.last() / 3;
    const int64_t heads = heads_of(kName, bias, width), size = width / heads;
    const int64_t capacity = key.shape[2], position = *call.input(3).as<int64_t>();
    expect(kName, "elements of key", key.count(), rows * heads * capacity * size);
    expect(kName, "elements of value", value.count(), key.count());
    if (position < 0 || position > capacity) {
      throw std::invalid_argument(std::string(kName) + ": position is " + std::to_string(position) +
                                  ", expected 0 to the cache's capacity, " +
                                  std::to_string(capacity));
    }
    const std::vector<int64_t> fresh = {rows, heads, tokens, size};
    switch_ops::cached_attention(
        call.context(),
        {qkv.as<float>(), key.as<float>(), value.as<float>(), bias.as<float>(), rows, tokens, heads,
         size, capacity, position, bias.shape[0] / 2, call.output<float>(0, {rows, tokens, width}),
         call.output<float>(1, fresh), call.output<float>(2, fresh)});
  }
};

class CrossAttention {
 public:
  static constexpr const char* kName = "SwitchCrossAttention";
  static constexpr Slot kInputs[] = {{kFloat}, {kFloat}, {kFloat}, {kInt64}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit CrossAttention(const Info&) {}

  void compute(Call& call) const {
    const Array q = call.input(0, "q", 3), key = call.input(1, "key", 4);
    const Array value = call.input(2, "value", 4), mask = call.input(3, "mask", 2);
    const int64_t batch = key.shape[0], heads = key.shape[1], source = key.shape[2];
    expect(kName, "the last axis of q", q.last(), heads * key.shape[3]);
    expect(kName, "rows modulo sources", batch > 0 ? q.shape[0] % batch : q.shape[0], 0);
    expect(kName, "elements of value", value.count(), key.count());
    expect(kName, "elements of mask", mask.count(), batch * source);
    switch_ops::cross_attention(
        call.context(),
        {q.as<float>(), key.as<float>(), value.as<float>(), mask.as<int64_t>(), q.shape[0],
         q.shape[1], heads, key.shape[3], batch, source, call.output_like(0, q)});
  }
};

}  // namespace switch_ort

#endif  // SWITCH_ORT_BLOCK_OPS_H_
