// The tensors of docs/model-directory.md for one model, compared with those that switch.json lists.
#include <map>

#include "config.h"

namespace switch_runtime {
namespace {

using Shape = std::vector<Axis>;

Axis any(const char* letter) { return Axis{letter, 0}; }
Axis fixed(int64_t size) { return Axis{"", size}; }

struct Contract {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> needed;    // outputs
  std::vector<TensorSpec> possible;  // outputs that a target may leave out
};

std::string numbered(const char* name, int64_t index) {
  return name + std::string(".") + std::to_string(index);
}

void add_pairs(std::vector<TensorSpec>& tensors, const char* key, const char* value, int64_t layers,
               const Shape& shape) {
  for (int64_t i = 0; i < layers; ++i) {
    tensors.push_back({numbered(key, i), Type::kFloat32, shape});
    tensors.push_back({numbered(value, i), Type::kFloat32, shape});
  }
}

void add_routes(std::vector<TensorSpec>& tensors, const std::vector<int64_t>& layers,
                const Shape& shape) {
  for (int64_t i : layers) {
    tensors.push_back({numbered("expert", i), Type::kInt32, shape});
    tensors.push_back({numbered("gate", i), Type::kFloat32, shape});
  }
}

Shape cross_shape(const Config& config) {
  return {any("B"), fixed(config.num_heads), any("S"), fixed(config.d_kv)};
}

Contract encoder_contract(const Config& config) {
  Contract contract;
  const Shape tokens = {any("B"), any("S")};
  contract.inputs = {{"input_ids", Type::kInt64, tokens}, {"attention_mask", Type::kInt64, tokens}};
  if (config.task == Task::kEncoder) {
    contract.needed = {
        {"last_hidden_state", Type::kFloat32, {any("B"), any("S"), fixed(config.d_model)}}};
  } else {
    add_pairs(contract.needed, "cross_key", "cross_value", config.num_decoder_layers,
              cross_shape(config));
  }
  add_routes(contract.possible, config.sparse_encoder_layers, tokens);
  return contract;
}

Contract decoder_contract(const Config& config) {
  Contract contract;
  const Axis heads = fixed(config.num_heads), head_size = fixed(config.d_kv);
  const int64_t layers = config.num_decoder_layers;
  contract.inputs = {{"input_ids", Type::kInt64, {any("R"), any("T")}},
                     {"position", Type::kInt64, {}},
                     {"attention_mask", Type::kInt64, {any("B"), any("S")}}};
  add_pairs(contract.inputs, "self_key", "self_value", layers,
            {any("R"), heads, any("C"), head_size});
  add_pairs(contract.inputs, "cross_key", "cross_value", layers, cross_shape(config));
  const bool hidden = config.task == Task::kHidden;
  const Axis width = fixed(hidden ? config.d_model : config.vocab_size);
  contract.needed = {
      {hidden ? "last_hidden_state" : "logits", Type::kFloat32, {any("R"), any("T"), width}}};
  add_pairs(contract.needed, "new_key", "new_value", layers,
            {any("R"), heads, any("T"), head_size});
  add_routes(contract.possible, config.sparse_decoder_layers, {any("R"), any("T")});
  return contract;
}

std::string describe(const Shape& shape) {
  std::string text = "[";
  for (const Axis& axis : shape) {
    if (text.size() > 1) text += ", ";
    text += axis.letter.empty() ? std::to_string(axis.size) : axis.letter;
  }
  return text + "]";
}

// A listed letter may stand for any number; a listed number must be the contract's.
bool agrees(const Shape& listed, const Shape& expected) {
  if (listed.size() != expected.size()) return false;
  for (size_t i = 0; i < listed.size(); ++i) {
    if (!listed[i].letter.empty()) continue;
    if (!expected[i].letter.empty() || listed[i].size != expected[i].size) return false;
  }
  return true;
}

class Checker {
 public:
  Checker(std::string graph, std::vector<std::string>& problems)
      : graph_(std::move(graph)), problems_(problems) {}

  void check_inputs(const std::vector<TensorSpec>& listed, const std::vector<TensorSpec>& needed) {
    auto rest = index(listed);
    for (const auto& tensor : needed) check_tensor(rest, tensor, true);
    for (const auto& [name, tensor] : rest) report(name, "is an input that nothing is known about");
  }

  void check_outputs(const std::vector<TensorSpec>& listed, const Contract& contract) {
    auto rest = index(listed);
    for (const auto& tensor : contract.needed) check_tensor(rest, tensor, true);
    for (const auto& tensor : contract.possible) check_tensor(rest, tensor, false);
  }

 private:
  using Index = std::map<std::string, const TensorSpec*>;

  Index index(const std::vector<TensorSpec>& listed) {
    Index result;
    for (const auto& tensor : listed) {
      if (!result.emplace(tensor.name, &tensor).second) report(tensor.name, "is listed twice");
    }
    return result;
  }

  void check_tensor(Index& rest, const TensorSpec& expected, bool needed) {
    const auto found = rest.find(expected.name);
    if (found == rest.end()) {
      if (needed) report(expected.name, "is missing");
      return;
    }
    const TensorSpec& listed = *found->second;
    if (listed.type != expected.type || !agrees(listed.shape, expected.shape)) {
      report(expected.name, std::string("is ") + name_of(listed.type) + " " +
                                describe(listed.shape) + ", expected " + name_of(expected.type) +
                                " " + describe(expected.shape));
    }
    rest.erase(found);
  }

  void report(const std::string& name, const std::string& problem) {
    problems_.push_back("graphs." + graph_ + ": " + name + " " + problem);
  }

  std::string graph_;
  std::vector<std::string>& problems_;
};

}  // namespace

std::vector<std::string> check_contract(const Config& config) {
  std::vector<std::string> problems;
  const Contract encoder = encoder_contract(config);
  Checker encoder_checker("encoder", problems);
  encoder_checker.check_inputs(config.encoder.inputs, encoder.inputs);
  encoder_checker.check_outputs(config.encoder.outputs, encoder);
  if (config.decoder) {
    const Contract decoder = decoder_contract(config);
    Checker decoder_checker("decoder", problems);
    decoder_checker.check_inputs(config.decoder->inputs, decoder.inputs);
    decoder_checker.check_outputs(config.decoder->outputs, decoder);
  }
  return problems;
}

}  // namespace switch_runtime
