// The operators that read weights: embedding, linear maps, MLPs and experts.
#ifndef SWITCH_ORT_WEIGHT_OPS_H_
#define SWITCH_ORT_WEIGHT_OPS_H_

#include "custom_op.h"

namespace switch_ort {

class Embedding {
 public:
  static constexpr const char* kName = "SwitchEmbedding";
  static constexpr Slot kInputs[] = {{kInt64}, {kWeight}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Embedding(const Info& info) : table_(info, 1, 2) {}

  void compute(Call& call) const {
    const Array ids = call.input(0);
    const switch_ops::Weight table = table_.get(call);
    std::vector<int64_t> shape(ids.shape, ids.shape + ids.rank);
    shape.push_back(table.columns);
    switch_ops::embedding(call.context(), ids.as<int64_t>(), ids.count(), table,
                          call.output<float>(0, shape));
  }

 private:
  WeightInput table_;
};

class Linear {
 public:
  static constexpr const char* kName = "SwitchLinear";
  static constexpr Slot kInputs[] = {{kFloat}, {kWeight}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Linear(const Info& info) : weight_(info, 1, 2) {}

  void compute(Call& call) const {
    const Array x = call.input(0);
    const switch_ops::Weight weight = weight_.get(call);
    expect(kName, "the last axis of x", x.last(), weight.columns);
    Array shape = x;
    shape.shape[shape.rank - 1] = weight.rows;
    switch_ops::linear(call.context(), x.as<float>(), x.rows(), weight, call.output_like(0, shape));
  }

 private:
  WeightInput weight_;
};

class KeyValue {
 public:
  static constexpr const char* kName = "SwitchKeyValue";
  static constexpr Slot kInputs[] = {{kFloat}, {kWeight}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}, {kFloat}};

  explicit KeyValue(const Info& info) : weight_(info, 1, 2), heads_(info.integer("heads", 1)) {}

  void compute(Call& call) const {
    const Array x = call.input(0, "x", 3);
    const switch_ops::Weight weight = weight_.get(call);
    expect(kName, "the last axis of x", x.last(), weight.columns);
    if (heads_ < 1) expect(kName, "heads", heads_, 1);
    expect(kName, "rows of the weight modulo 2 heads", weight.rows % (2 * heads_), 0);
    const std::vector<int64_t> shape = {x.shape[0], heads_, x.shape[1], weight.rows / 2 / heads_};
    switch_ops::key_value(call.context(),
                          {x.as<float>(), x.shape[0], x.shape[1], heads_, weight,
                           call.output<float>(0, shape), call.output<float>(1, shape)});
  }

 private:
  WeightInput weight_;
  int64_t heads_;
};

// Shared by SwitchMLP and SwitchMoE: shapes of x, wi and wo that fit.
inline void check_mlp(const char* name, const Array& x, const switch_ops::Weight& wi,
                      const switch_ops::Weight& wo) {
  expect(name, "the last axis of x", x.last(), wi.columns);
  expect(name, "outputs of wo", wo.rows, wi.columns);
  expect(name, "inputs of wo", wo.columns, wi.rows);
  expect(name, "experts of wo", wo.count, wi.count);
}

class Mlp {
 public:
  static constexpr const char* kName = "SwitchMLP";
  static constexpr Slot kInputs[] = {
      {kFloat}, {kWeight}, {kWeight}, {kFloat, true}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Mlp(const Info& info)
      : wi_(info, 1, 3),
        wo_(info, 2, 4),
        activation_(switch_ops::parse_activation(info.text("activation", "relu"))) {}

  void compute(Call& call) const {
    const Array x = call.input(0);
    const switch_ops::Weight wi = wi_.get(call), wo = wo_.get(call);
    check_mlp(kName, x, wi, wo);
    switch_ops::moe(call.context(), {x.as<float>(), x.rows(), nullptr, nullptr, wi, wo, activation_,
                                     switch_ops::Dropped::kZero, call.output_like(0, x)});
  }

 private:
  WeightInput wi_, wo_;
  switch_ops::Activation activation_;
};

class Moe {
 public:
  static constexpr const char* kName = "SwitchMoE";
  static constexpr Slot kInputs[] = {{kFloat},  {kInt32},       {kFloat},      {kWeight},
                                     {kWeight}, {kFloat, true}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Moe(const Info& info)
      : wi_(info, 3, 5),
        wo_(info, 4, 6),
        activation_(switch_ops::parse_activation(info.text("activation", "relu"))),
        dropped_(switch_ops::parse_dropped(info.text("dropped", "zero"))) {}

  void compute(Call& call) const {
    const Array x = call.input(0), expert = call.input(1), gate = call.input(2);
    const switch_ops::Weight wi = wi_.get(call), wo = wo_.get(call);
    check_mlp(kName, x, wi, wo);
    expect(kName, "tokens of expert", expert.count(), x.rows());
    expect(kName, "tokens of gate", gate.count(), x.rows());
    switch_ops::moe(call.context(),
                    {x.as<float>(), x.rows(), expert.as<int32_t>(), gate.as<float>(), wi, wo,
                     activation_, dropped_, call.output_like(0, x)});
  }

 private:
  WeightInput wi_, wo_;
  switch_ops::Activation activation_;
  switch_ops::Dropped dropped_;
};

}  // namespace switch_ort

#endif  // SWITCH_ORT_WEIGHT_OPS_H_
