#include "scripted.h"

#include <map>

#include "check.h"

namespace switch_tests {

using namespace switch_runtime;
using nlohmann::json;

namespace {

class ScriptedGraph : public BoundGraph {
 public:
  explicit ScriptedGraph(std::function<void()> body) : body_(std::move(body)) {}
  void run() override { body_(); }

 private:
  std::function<void()> body_;
};

const Tensor& find(const std::vector<Tensor>& tensors, const std::string& name) {
  for (const Tensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw Failure{"tensor " + name + " was not bound"};
}

float* floats(const std::vector<Tensor>& tensors, const std::string& name) {
  return static_cast<float*>(find(tensors, name).data);
}

int64_t* integers(const std::vector<Tensor>& tensors, const std::string& name) {
  return static_cast<int64_t*>(find(tensors, name).data);
}

// What layer, part (key 0, value 1), head and place of the cache hold for a token.
float mark(int64_t token, int64_t layer, int64_t part, int64_t head, int64_t place) {
  return static_cast<float>(token * 1000 + layer * 100 + part * 50 + head * 10 + place);
}

json tensor(const std::string& name, const char* type, json shape) {
  return {{"name", name}, {"type", type}, {"shape", std::move(shape)}};
}

void add_pairs(json& list, const std::string& prefix, int64_t layers, const json& shape) {
  for (int64_t i = 0; i < layers; ++i) {
    for (const char* part : {"_key.", "_value."}) {
      list.push_back(tensor(prefix + part + std::to_string(i), "float32", shape));
    }
  }
}

json make_graphs(const Sizes& sizes) {
  const json cross = {"B", sizes.heads, "S", sizes.head_size};
  json encoder = {{"file", "encoder.onnx"}, {"outputs", json::array()}};
  encoder["inputs"] = {tensor("input_ids", "int64", {"B", "S"}),
                       tensor("attention_mask", "int64", {"B", "S"})};
  if (sizes.task == "encoder") {
    encoder["outputs"].push_back(tensor("last_hidden_state", "float32", {"B", "S", 8}));
    return {{"encoder", encoder}};
  }
  add_pairs(encoder["outputs"], "cross", sizes.layers, cross);
  json decoder = {{"file", "decoder.onnx"}, {"outputs", json::array()}};
  decoder["inputs"] = {tensor("input_ids", "int64", {"R", "T"}),
                       tensor("position", "int64", json::array()),
                       tensor("attention_mask", "int64", {"B", "S"})};
  add_pairs(decoder["inputs"], "self", sizes.layers, {"R", sizes.heads, "C", sizes.head_size});
  add_pairs(decoder["inputs"], "cross", sizes.layers, cross);
  decoder["outputs"].push_back(tensor("logits", "float32", {"R", "T", sizes.vocab}));
  add_pairs(decoder["outputs"], "new", sizes.layers, {"R", sizes.heads, "T", sizes.head_size});
  return {{"encoder", encoder}, {"decoder", decoder}};
}

}  // namespace

json make_document(const Sizes& sizes) {
  json document = {
      {"format", 1},
      {"target", "cpu"},
      {"task", sizes.task},
      {"tokens", {{"pad", 0}, {"eos", {1}}, {"decoder_start", 0}}},
      {"generation", json::object()},
      {"graphs", make_graphs(sizes)},
      {"tokenizer", nullptr},
  };
  document["model"] = {
      {"vocab_size", sizes.vocab},
      {"d_model", 8},
      {"d_kv", sizes.head_size},
      {"d_ff", 16},
      {"num_heads", sizes.heads},
      {"num_layers", 2},
      {"num_decoder_layers", sizes.layers},
      {"num_experts", 2},
      {"sparse_encoder_layers", {1}},
      {"sparse_decoder_layers", {1}},
      {"activation", "relu"},
      {"parameters", 1},
  };
  for (const char* name : {"encoder.onnx", "decoder.onnx", "weights.bin"}) {
    document["files"][name] = {{"size", 3}, {"sha256", ""}};
  }
  return document;
}

Config make_config(const Sizes& sizes) { return parse_config(make_document(sizes).dump(), "dir"); }

std::vector<float> hashed_logits(int64_t source, const History& history, int64_t vocab) {
  uint64_t state = 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(source + 1);
  for (int64_t token : history) {
    state = (state ^ static_cast<uint64_t>(token + 1)) * 0xbf58476d1ce4e5b9ull;
    state ^= state >> 29;
  }
  std::vector<float> logits;
  for (int64_t token = 0; token < vocab; ++token) {
    uint64_t bits = (state + static_cast<uint64_t>(token)) * 0x94d049bb133111ebull;
    bits ^= bits >> 31;
    bits *= 0xbf58476d1ce4e5b9ull;
    logits.push_back(static_cast<float>(bits >> 40) / (1 << 24) * 6 - 3);
  }
  return logits;
}

std::unique_ptr<BoundGraph> ScriptedBackend::bind(GraphKind graph,
                                                  const std::vector<Tensor>& inputs,
                                                  const std::vector<Tensor>& outputs) {
  if (graph == GraphKind::kEncoder) {
    return std::make_unique<ScriptedGraph>([=] { run_encoder(inputs, outputs); });
  }
  return std::make_unique<ScriptedGraph>([=] { run_decoder(inputs, outputs); });
}

// Every number of a source's cross keys is its first token.
void ScriptedBackend::run_encoder(const std::vector<Tensor>& inputs,
                                  const std::vector<Tensor>& outputs) {
  ++encoder_runs;
  const Tensor& ids = find(inputs, "input_ids");
  const int64_t batch = ids.shape[0], width = ids.shape[1];
  const int64_t* first = static_cast<int64_t*>(ids.data);
  encoder_ids.assign(first, first + batch * width);
  const int64_t* mask = integers(inputs, "attention_mask");
  encoder_mask.assign(mask, mask + batch * width);
  for (const Tensor& tensor : outputs) {
    auto* data = static_cast<float*>(tensor.data);
    const int64_t size = static_cast<int64_t>(count_of(tensor.shape)) / batch;
    for (int64_t i = 0; i < batch * size; ++i) {
      data[i] = static_cast<float>(first[i / size * width]);
    }
  }
}

void ScriptedBackend::run_decoder(const std::vector<Tensor>& inputs,
                                  const std::vector<Tensor>& outputs) {
  const Tensor& ids = find(inputs, "input_ids");
  const int64_t rows = ids.shape[0], position = *integers(inputs, "position");
  const int64_t* tokens = static_cast<int64_t*>(ids.data);
  fed.emplace_back(tokens, tokens + rows);
  const int64_t heads = config_.num_heads, size = config_.d_kv;
  const Tensor& cross = find(inputs, "cross_key.0");
  const int64_t beams = rows / cross.shape[0];
  const int64_t cross_size = heads * cross.shape[2] * size;
  const int64_t capacity = find(inputs, "self_key.0").shape[2];
  capacities.push_back(capacity);
  expect(position < capacity, "position " + show(position) + " is outside the cache");

  std::vector<History> histories(static_cast<size_t>(rows));
  const char* parts[] = {"_key.", "_value."};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t step = 0; step < position; ++step) {
      const float first = floats(inputs, "self_key.0")[(row * heads * capacity + step) * size];
      histories[row].push_back(static_cast<int64_t>(first) / 1000);
    }
    histories[row].push_back(tokens[row]);
    for (int64_t i = 0; i < config_.num_decoder_layers; ++i) {
      for (int64_t part = 0; part < 2; ++part) {
        const std::string suffix = parts[part] + std::to_string(i);
        const float* cached = floats(inputs, "self" + suffix);
        float* fresh = floats(outputs, "new" + suffix);
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t line = row * heads + head;
          for (int64_t place = 0; place < size; ++place) {
            for (int64_t step = 0; step < position; ++step) {
              expect_equal(cached[(line * capacity + step) * size + place],
                           mark(histories[row][step], i, part, head, place),
                           "self" + suffix + " row " + show(row) + " step " + show(step));
            }
            fresh[line * size + place] = mark(tokens[row], i, part, head, place);
          }
        }
      }
    }
    const auto source =
        static_cast<int64_t>(static_cast<float*>(cross.data)[row / beams * cross_size]);
    const auto logits = script_(source, histories[row]);
    std::copy(logits.begin(), logits.end(), floats(outputs, "logits") + row * config_.vocab_size);
  }
  if (after_step) after_step();
}

}  // namespace switch_tests
