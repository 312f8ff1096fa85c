#include "decoder.h"

#include <algorithm>
#include <cstring>

namespace switch_runtime {
namespace {

CacheShape cache_shape(const Config& config, int64_t rows) {
  return {config.num_decoder_layers, rows, config.num_heads, config.d_kv};
}

// Give row `to` of a tensor what its row `from` holds, and forget the last row.
void replace_and_shrink(Tensor& tensor, int64_t from, int64_t to) {
  const size_t bytes = tensor.bytes() / static_cast<size_t>(tensor.shape[0]);
  char* data = static_cast<char*>(tensor.data);
  if (from != to) std::memcpy(data + to * bytes, data + from * bytes, bytes);
  --tensor.shape[0];
}

}  // namespace

Decoder::Decoder(Backend& backend, const Config& config, const Sources& sources, DecoderPlan plan)
    : backend_(backend),
      config_(config),
      plan_(std::move(plan)),
      items_(sources.batch),
      tokens_(static_cast<size_t>(sources.batch * plan_.rows_per_item)),
      sources_(sources),
      cross_(make_cross(config, sources)),
      // The last token of a sequence is never read.
      cache_(cache_shape(config, sources.batch), plan_.limit - 1) {
  run_encoder(backend, sources, cross_);
  if (is_plain()) {
    tokens_ = plan_.prefixes;
    make_outputs(rows(), 1);
  }
}

void Decoder::make_outputs(int64_t rows, int64_t tokens) {
  outputs_.clear();
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    outputs_.emplace_back(name, Type::kFloat32, std::move(shape));
  };
  add("logits", {rows, tokens, config_.vocab_size});
  for (int64_t i = 0; i < config_.num_decoder_layers; ++i) {
    for (const char* name : {"new_key.", "new_value."}) {
      add(name + std::to_string(i), {rows, config_.num_heads, tokens, config_.d_kv});
    }
  }
  const std::vector<Tensor> outputs = tensors_of(outputs_);
  new_rows_.assign(outputs.begin() + 1, outputs.end());
}

void Decoder::bind(std::vector<int64_t>& ids, int64_t rows, int64_t tokens) {
  std::vector<Tensor> inputs = {
      {"input_ids", Type::kInt64, {rows, tokens}, ids.data()},
      {"position", Type::kInt64, {}, &position_},
      sources_.mask_tensor(),
  };
  const std::vector<Tensor> cross = tensors_of(cross_);
  inputs.insert(inputs.end(), cache_.tensors().begin(), cache_.tensors().end());
  inputs.insert(inputs.end(), cross.begin(), cross.end());
  for (Array& output : outputs_) output.tensor.shape[0] = rows;
  graph_ = backend_.bind(GraphKind::kDecoder, inputs, tensors_of(outputs_));
  bound_ = true;
}

void Decoder::read_prefixes() {
  const int64_t tokens = plan_.prefix, copies = plan_.rows_per_item, vocab = config_.vocab_size;
  cache_.reserve(tokens, 0);
  make_outputs(items_, tokens);
  bind(plan_.prefixes, items_, tokens);
  graph_->run();
  cache_.append(new_rows_, 0, tokens);
  cache_.repeat(copies, tokens);

  std::vector<Array> first = std::move(outputs_);
  make_outputs(rows(), 1);
  const float* from = static_cast<float*>(first[0].tensor.data) + (tokens - 1) * vocab;
  float* to = static_cast<float*>(outputs_[0].tensor.data);
  for (int64_t row = 0; row < rows(); ++row) {
    std::copy_n(from + row / copies * tokens * vocab, vocab, to + row * vocab);
  }
  position_ = tokens;
  bound_ = false;
}

float* Decoder::step() {
  if (++steps_ == 1 && !is_plain()) {
    read_prefixes();
  } else {
    if (cache_.reserve(position_ + 1, position_) || !bound_) bind(tokens_, rows(), 1);
    graph_->run();
    cache_.append(new_rows_, position_, 1);
    ++position_;
  }
  return static_cast<float*>(outputs_[0].tensor.data);
}

void Decoder::drop(int64_t item) {
  const int64_t last = items_ - 1, rows_each = plan_.rows_per_item;
  for (Array& array : cross_) replace_and_shrink(array.tensor, last, item);
  sources_.drop(item);
  if (item != last) {
    cache_.move(last * rows_each, item * rows_each, rows_each, position_);
    std::copy_n(tokens_.begin() + last * rows_each, rows_each, tokens_.begin() + item * rows_each);
  }
  cache_.shrink(rows_each);
  items_ = last;
  bound_ = false;
}

}  // namespace switch_runtime
