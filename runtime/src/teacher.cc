#include "teacher.h"

#include <algorithm>
#include <cstring>

#include "cache.h"
#include "error.h"
#include "memory.h"

namespace switch_runtime {
namespace {

Sources read_source(const Config& config, Tokens source) {
  return read_sources(config, {source.ids, &source.count, 1});
}

void check_target(const Config& config, Tokens target) {
  if (target.count < 0 || (target.count > 0 && !target.ids)) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                "target has length " + std::to_string(target.count) + " and no tokens");
  }
  if (target.count > 0 && config.task == Task::kEncoder) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                config.directory +
                    " was exported with --task encoder and has no decoder to read a target; "
                    "export it with --task seq2seq or hidden");
  }
  check_memory("reading " + std::to_string(target.count) + " target tokens at once",
               decoder_demand(config, {1, target.count, 1, 0}), "Shorten the target.");
  check_ids(config, "target", target.ids, target.count);
}

// One call of the decoder over the start token and all but the last target token.
void run_decoder(Backend& backend, const Config& config, const Sources& sources,
                 const std::vector<Array>& cross, Tokens target,
                 const std::vector<Array>& outputs) {
  std::vector<int64_t> ids(static_cast<size_t>(target.count), config.decoder_start);
  std::copy(target.ids, target.ids + target.count - 1, ids.begin() + 1);
  int64_t position = 0;
  const SelfCache cache({config.num_decoder_layers, 1, config.num_heads, config.d_kv}, 1);
  std::vector<Tensor> inputs = {
      {"input_ids", Type::kInt64, {1, target.count}, ids.data()},
      {"position", Type::kInt64, {}, &position},
      sources.mask_tensor(),
  };
  const std::vector<Tensor> crossed = tensors_of(cross);
  inputs.insert(inputs.end(), cache.tensors().begin(), cache.tensors().end());
  inputs.insert(inputs.end(), crossed.begin(), crossed.end());
  backend.bind(GraphKind::kDecoder, inputs, tensors_of(outputs))->run();
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

// Cut `states`, [batch, width, d_model], into one array per source.
std::vector<Array> cut(const Array& states, const Sources& sources, int64_t d_model) {
  std::vector<Array> result;
  const float* from = static_cast<float*>(states.tensor.data);
  for (int64_t length : sources.lengths) {
    result.emplace_back("last_hidden_state", Type::kFloat32, std::vector<int64_t>{length, d_model});
    std::memcpy(result.back().tensor.data, from, result.back().tensor.bytes());
    from += sources.width * d_model;
  }
  return result;
}

}  // namespace

std::vector<Array> encode(Backend& backend, const Config& config, const TokenLists& lists) {
  if (config.task != Task::kEncoder) {
    throw Error(SWITCH_INVALID_ARGUMENT, config.directory + " was exported with --task " +
                                             name_of(config.task) +
                                             ", encode needs --task encoder");
  }
  const Sources sources = read_sources(config, lists);
  std::vector<Array> outputs;
  outputs.emplace_back("last_hidden_state", Type::kFloat32,
                       std::vector<int64_t>{sources.batch, sources.width, config.d_model});
  run_encoder(backend, sources, outputs);
  return cut(outputs[0], sources, config.d_model);
}

std::vector<Array> forward(Backend& backend, const Config& config, Tokens source, Tokens target) {
  check_target(config, target);
  if (target.count == 0) throw Error(SWITCH_INVALID_ARGUMENT, "target is empty");
  const Sources sources = read_source(config, source);
  const std::vector<Array> cross = make_cross(config, sources);
  run_encoder(backend, sources, cross);
  const bool hidden = config.task == Task::kHidden;
  std::vector<Array> outputs;
  outputs.emplace_back(
      hidden ? "last_hidden_state" : "logits", Type::kFloat32,
      std::vector<int64_t>{1, target.count, hidden ? config.d_model : config.vocab_size});
  run_decoder(backend, config, sources, cross, target, outputs);
  squeeze(outputs[0]);
  return outputs;
}

std::vector<Array> route(Backend& backend, const Config& config, Tokens source, Tokens target) {
  check_target(config, target);
  const Sources sources = read_source(config, source);
  check_routes(config, config.encoder, config.sparse_encoder_layers);
  const bool decodes = target.count > 0;
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
    add_routes(decoded, config.sparse_decoder_layers, 1, target.count);
    run_decoder(backend, config, sources, encoded, target, decoded);
    move_routes(result, "decoder", config.sparse_decoder_layers, std::move(decoded));
  }
  return result;
}

}  // namespace switch_runtime
