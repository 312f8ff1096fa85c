#include "decoder.h"

namespace switch_runtime {

Decoder::Decoder(Backend& backend, const Config& config, const Sources& sources, int64_t rows,
                 int64_t most_steps)
    : backend_(backend),
      sources_(sources),
      rows_(rows),
      tokens_(static_cast<size_t>(rows), config.decoder_start),
      cross_(make_cross(config, sources)),
      cache_({config.num_decoder_layers, rows, config.num_heads, config.d_kv}, most_steps) {
  run_encoder(backend, sources, cross_);
  outputs_.emplace_back("logits", Type::kFloat32, std::vector<int64_t>{rows, 1, config.vocab_size});
  const std::vector<int64_t> shape = {rows, config.num_heads, 1, config.d_kv};
  for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
    outputs_.emplace_back("new_key." + std::to_string(i), Type::kFloat32, shape);
    outputs_.emplace_back("new_value." + std::to_string(i), Type::kFloat32, shape);
  }
  const std::vector<Tensor> outputs = tensors_of(outputs_);
  new_rows_.assign(outputs.begin() + 1, outputs.end());
  bind();
}

void Decoder::bind() {
  std::vector<Tensor> inputs = {
      {"input_ids", Type::kInt64, {rows_, 1}, tokens_.data()},
      {"position", Type::kInt64, {}, &position_},
      sources_.mask_tensor(),
  };
  const std::vector<Tensor> cross = tensors_of(cross_);
  inputs.insert(inputs.end(), cache_.tensors().begin(), cache_.tensors().end());
  inputs.insert(inputs.end(), cross.begin(), cross.end());
  graph_ = backend_.bind(GraphKind::kDecoder, inputs, tensors_of(outputs_));
}

float* Decoder::step() {
  if (cache_.reserve(position_ + 1, position_)) bind();
  graph_->run();
  cache_.append(new_rows_, position_);
  ++position_;
  return static_cast<float*>(outputs_[0].tensor.data);
}

}  // namespace switch_runtime
