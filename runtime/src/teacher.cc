#include "teacher.h"

#include <algorithm>
#include <cstring>

#include "cache.h"
#include "error.h"
#include "memory.h"

namespace switch_runtime {
namespace {

void check_target(const Config& config, const switch_ids& target) {
  check_decodes(config);
  check_lists(config, "target", {&target, 1});
}

// Drop the leading axis of one row.
void squeeze(Array& array) { array.tensor.shape.erase(array.tensor.shape.begin()); }

// Move `routes` to `result` as GRAPH.i.expert and GRAPH.i.gate.
void move_routes(std::vector<Array>& result, const std::string& graph,
                 const std::vector<int64_t>& layers, std::vector<Array> routes) {
  for (size_t i = 0; i < routes.size(); ++i) {
    Array array = std::move(routes[i]);
    squeeze(array);
    array.tensor.name =
        graph + "." + std::to_string(layers[i / 2]) + (i % 2 == 0 ? ".expert" : ".gate");
    result.push_back(std::move(array));
  }
}

void check_routes(const Config& config, const GraphSpec& graph,
                  const std::vector<int64_t>& layers) {
  for (int64_t i : layers) {
    if (graph.has_output("expert." + std::to_string(i)) &&
        graph.has_output("gate." + std::to_string(i))) {
      continue;
    }
    throw Error(SWITCH_INVALID_ARGUMENT,
                config.directory + "/" + graph.file + " does not report its routing (layer " +
                    std::to_string(i) + "); export it with --target cpu or onnx");
  }
}

}  // namespace

void check_decodes(const Config& config) {
  if (config.task != Task::kEncoder) return;
  throw Error(SWITCH_INVALID_ARGUMENT,
              config.directory +
                  " was exported with --task encoder and has no decoder to read a target; "
                  "export it with --task seq2seq or hidden");
}

void run_forced(Backend& backend, const Config& config, const Sources& sources,
                const std::vector<Array>& cross, const std::vector<switch_ids>& targets,
                const std::vector<Array>& outputs) {
  const int64_t rows = sources.batch;
  int64_t width = 0;
  for (const switch_ids& target : targets) width = std::max(width, target.count);
  check_memory(
      "reading " + std::to_string(rows) + " x " + std::to_string(width) + " target tokens at once",
      decoder_demand(config, {rows, width, 1, sources.width}), "Shorten the target.");
  std::vector<int64_t> ids(static_cast<size_t>(rows * width), config.pad);
  for (int64_t row = 0; row < rows; ++row) {
    ids[row * width] = config.generation.decoder_start;
    std::copy_n(targets[row].ids, targets[row].count - 1, ids.begin() + row * width + 1);
  }
  int64_t position = 0;
  const SelfCache cache({config.num_decoder_layers, rows, config.num_heads, config.d_kv}, 1);
  std::vector<Tensor> inputs = {
      {"input_ids", Type::kInt64, {rows, width}, ids.data()},
      {"position", Type::kInt64, {}, &position},
      sources.mask_tensor(),
  };
  const std::vector<Tensor> crossed = tensors_of(cross);
  inputs.insert(inputs.end(), cache.tensors().begin(), cache.tensors().end());
  inputs.insert(inputs.end(), crossed.begin(), crossed.end());
  backend.bind(GraphKind::kDecoder, inputs, tensors_of(outputs))->run();
}

std::vector<Array> forward(Backend& backend, const Config& config, const switch_ids& source,
                           const switch_ids& target) {
  check_target(config, target);
  check_lists(config, "source", {&source, 1});
  const Sources sources = make_sources(config, {&source, 1}, {0});
  const std::vector<Array> cross = make_cross(config, sources);
  run_encoder(backend, sources, cross);
  const bool hidden = config.task == Task::kHidden;
  std::vector<Array> outputs;
  outputs.emplace_back(
      hidden ? "last_hidden_state" : "logits", Type::kFloat32,
      std::vector<int64_t>{1, target.count, hidden ? config.d_model : config.vocab_size});
  run_forced(backend, config, sources, cross, {target}, outputs);
  squeeze(outputs[0]);
  return outputs;
}

std::vector<Array> route(Backend& backend, const Config& config, const switch_ids& source,
                         const switch_ids* target) {
  const bool decodes = target != nullptr;
  if (decodes) check_target(config, *target);
  check_lists(config, "source", {&source, 1});
  const Sources sources = make_sources(config, {&source, 1}, {0});
  check_routes(config, config.encoder, config.sparse_encoder_layers);
  if (decodes) check_routes(config, *config.decoder, config.sparse_decoder_layers);

  // The first arrays are cross-attention's; without a target they are not asked for.
  std::vector<Array> encoded;
  if (decodes) encoded = make_cross(config, sources);
  const auto crossed = static_cast<std::ptrdiff_t>(encoded.size());
  add_routes(encoded, config.sparse_encoder_layers, 1, sources.width);
  std::vector<Array> result;
  if (!encoded.empty()) run_encoder(backend, sources, encoded);
  std::vector<Array> routes(std::make_move_iterator(encoded.begin() + crossed),
                            std::make_move_iterator(encoded.end()));
  encoded.erase(encoded.begin() + crossed, encoded.end());
  move_routes(result, "encoder", config.sparse_encoder_layers, std::move(routes));
  if (decodes && !config.sparse_decoder_layers.empty()) {
    std::vector<Array> decoded;
    add_routes(decoded, config.sparse_decoder_layers, 1, target->count);
    run_forced(backend, config, sources, encoded, {*target}, decoded);
    move_routes(result, "decoder", config.sparse_decoder_layers, std::move(decoded));
  }
  return result;
}

}  // namespace switch_runtime
