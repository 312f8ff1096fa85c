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

Script hashed(int64_t vocab) {
  return
      [=](int64_t source, const History& history) { return hashed_logits(source, history, vocab); };
}

Config large_vocabulary() {
  Sizes sizes;
  sizes.vocab = 40;
  return make_config(sizes);
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
  const Tensor& ids = find(inputs, "input_ids");
  const int64_t batch = ids.shape[0], width = ids.shape[1];
  const int64_t* first = static_cast<int64_t*>(ids.data);
  const int64_t* mask = integers(inputs, "attention_mask");
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++encoder_runs;
    encoder_ids.assign(first, first + batch * width);
    encoder_mask.assign(mask, mask + batch * width);
  }
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
  const int64_t rows = ids.shape[0], steps = ids.shape[1];
  const int64_t position = *integers(inputs, "position");
  const int64_t* tokens = static_cast<int64_t*>(ids.data);
  const Tensor& cross = find(inputs, "cross_key.0");
  const int64_t beams = rows / cross.shape[0];
  const int64_t cross_size = config_.num_heads * cross.shape[2] * config_.d_kv;
  const int64_t capacity = find(inputs, "self_key.0").shape[2];
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    fed.emplace_back(tokens, tokens + rows * steps);
    capacities.push_back(capacity);
  }
  expect(position <= capacity, "position " + show(position) + " is outside the cache");
  expect_equal(rows % cross.shape[0], 0, "rows without a source");

  for (int64_t row = 0; row < rows; ++row) {
    History history = read_history(inputs, row);
    check_and_mark(inputs, outputs, row, history);
    const auto source =
        static_cast<int64_t>(static_cast<float*>(cross.data)[row / beams * cross_size]);
    for (int64_t step = 0; step < steps; ++step) {
      history.push_back(tokens[row * steps + step]);
      const auto logits = script_(source, history);
      std::copy(logits.begin(), logits.end(),
                floats(outputs, "logits") + (row * steps + step) * config_.vocab_size);
    }
  }
  if (after_step) after_step();
}

// The tokens that a row's cache was filled from.
History ScriptedBackend::read_history(const std::vector<Tensor>& inputs, int64_t row) const {
  const Tensor& keys = find(inputs, "self_key.0");
  const int64_t capacity = keys.shape[2], position = *integers(inputs, "position");
  History history;
  for (int64_t step = 0; step < position; ++step) {
    const float first =
        floats(inputs, "self_key.0")[(row * config_.num_heads * capacity + step) * config_.d_kv];
    history.push_back(static_cast<int64_t>(first) / 1000);
  }
  return history;
}

// Every number of a row's cache must be that of its history; the new rows get theirs.
void ScriptedBackend::check_and_mark(const std::vector<Tensor>& inputs,
                                     const std::vector<Tensor>& outputs, int64_t row,
                                     const History& history) const {
  const Tensor& ids = find(inputs, "input_ids");
  const int64_t steps = ids.shape[1], heads = config_.num_heads, size = config_.d_kv;
  const int64_t* tokens = static_cast<int64_t*>(ids.data) + row * steps;
  const int64_t capacity = find(inputs, "self_key.0").shape[2];
  const char* parts[] = {"_key.", "_value."};
  for (int64_t index = 0; index < 2 * config_.num_decoder_layers * heads * size; ++index) {
    const int64_t place = index % size, head = index / size % heads;
    const int64_t part = index / size / heads % 2, layer = index / size / heads / 2;
    const std::string suffix = parts[part] + std::to_string(layer);
    const float* cached = floats(inputs, "self" + suffix);
    // Not asked for where nothing follows.
    const bool fills = outputs.size() > 1;
    float* fresh = fills ? floats(outputs, "new" + suffix) : nullptr;
    const int64_t line = row * heads + head;
    for (size_t step = 0; step < history.size(); ++step) {
      const float found = cached[(line * capacity + static_cast<int64_t>(step)) * size + place];
      const float expected = mark(history[step], layer, part, head, place);
      if (found == expected) continue;  // making the text takes longer than all else here
      differ(found, expected, "self" + suffix + " row " + show(row) + " step " + show(step));
    }
    for (int64_t step = 0; fills && step < steps; ++step) {
      fresh[(line * steps + step) * size + place] = mark(tokens[step], layer, part, head, place);
    }
  }
}

}  // namespace switch_tests
