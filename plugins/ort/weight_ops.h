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

// Shared by SwitchMLP and SwitchMoE: two weights, and what happens between their products.
class Weights {
 public:
  // `first`: input of wi; wo follows it, then the scales of both.
  Weights(const Info& info, size_t first)
      : wi_(info, first, first + 2),
        wo_(info, first + 1, first + 3),
        activation_(switch_ops::parse_activation(info.text("activation", "relu"))),
        gated_(info.integer("gated", 0)) {
    if (gated_ == 0 || gated_ == 1) return;
    throw std::invalid_argument("gated is " + std::to_string(gated_) + ", expected 0 or 1");
  }

  // Everything but expert, gate and dropped; checked.
  switch_ops::Moe layer(const Call& call, const Array& x) const {
    switch_ops::Moe layer{};
    layer.x = x.as<float>();
    layer.tokens = x.rows();
    layer.wi = wi_.get(call);
    layer.wo = wo_.get(call);
    layer.activation = activation_;
    layer.is_gated = gated_ == 1;
    check(call.name(), x, layer);
    layer.y = call.output_like(0, x);
    return layer;
  }

 private:
  static void check(const char* name, const Array& x, const switch_ops::Moe& layer) {
    const switch_ops::Weight &wi = layer.wi, &wo = layer.wo;
    expect(name, "the last axis of x", x.last(), wi.columns);
    expect(name, "outputs of wo", wo.rows, wi.columns);
    if (layer.is_gated) {
      expect(name, "outputs of a gated wi, two for each input of wo,", wi.rows, 2 * wo.columns);
    } else {
      expect(name, "inputs of wo", wo.columns, wi.rows);
    }
    expect(name, "experts of wo", wo.count, wi.count);
  }

  WeightInput wi_, wo_;
  switch_ops::Activation activation_;
  int64_t gated_;
};

class Mlp {
 public:
  static constexpr const char* kName = "SwitchMLP";
  static constexpr Slot kInputs[] = {
      {kFloat}, {kWeight}, {kWeight}, {kFloat, true}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Mlp(const Info& info) : weights_(info, 1) {}

  void compute(Call& call) const {
    switch_ops::moe(call.context(), weights_.layer(call, call.input(0)));
  }

 private:
  Weights weights_;
};

class Moe {
 public:
  static constexpr const char* kName = "SwitchMoE";
  static constexpr Slot kInputs[] = {{kFloat},  {kInt32},       {kFloat},      {kWeight},
                                     {kWeight}, {kFloat, true}, {kFloat, true}};
  static constexpr Slot kOutputs[] = {{kFloat}};

  explicit Moe(const Info& info)
      : weights_(info, 3), dropped_(switch_ops::parse_dropped(info.text("dropped", "zero"))) {}

  void compute(Call& call) const {
    const Array x = call.input(0), expert = call.input(1), gate = call.input(2);
    switch_ops::Moe layer = weights_.layer(call, x);
    expect(kName, "tokens of expert", expert.count(), x.rows());
    expect(kName, "tokens of gate", gate.count(), x.rows());
    layer.expert = expert.as<int32_t>();
    layer.gate = gate.as<float>();
    layer.dropped = dropped_;
    switch_ops::moe(call.context(), layer);
  }

 private:
  Weights weights_;
  switch_ops::Dropped dropped_;
};

}  // namespace switch_ort

#endif  // SWITCH_ORT_WEIGHT_OPS_H_
