// Hidden states of the encoder, all of them or one vector per source.
#include <algorithm>
#include <cstring>

#include "batches.h"
#include "error.h"
#include "teacher.h"

namespace switch_runtime {
namespace {

Array pool(const float* states, int64_t tokens, int64_t d_model, switch_pooling pooling) {
  if (pooling == SWITCH_POOLING_NONE) {
    Array all("last_hidden_state", Type::kFloat32, {tokens, d_model});
    std::memcpy(all.tensor.data, states, all.tensor.bytes());
    return all;
  }
  Array pooled("pooled", Type::kFloat32, {d_model});
  float* out = static_cast<float*>(pooled.tensor.data);
  for (int64_t i = 0; i < d_model; ++i) {
    const auto at = [&](int64_t token) { return states[token * d_model + i]; };
    double sum = 0;
    float max = at(0);
    for (int64_t token = 0; token < tokens; ++token) {
      sum += at(token);
      max = std::max(max, at(token));
    }
    switch (pooling) {
      case SWITCH_POOLING_NONE: break;
      case SWITCH_POOLING_MEAN: out[i] = static_cast<float>(sum / double(tokens)); break;
      case SWITCH_POOLING_MAX: out[i] = max; break;
      case SWITCH_POOLING_FIRST: out[i] = at(0); break;
      case SWITCH_POOLING_LAST: out[i] = at(tokens - 1); break;
    }
  }
  return pooled;
}

}  // namespace

BatchOptions read_batch_options(const switch_batch_options& options) {
  if (options.max_batch_tokens < 0) {
    throw Error(
        SWITCH_INVALID_ARGUMENT,
        "max_batch_tokens is " + std::to_string(options.max_batch_tokens) + ", expected 0 or more");
  }
  return {options.max_batch_tokens,
          {options.cancel, options.user_data, nullptr, nullptr, options.on_progress}};
}

std::vector<Array> encode(Backend& backend, const Config& config, const TokenLists& lists,
                          switch_pooling pooling, const BatchOptions& options) {
  if (config.task != Task::kEncoder) {
    throw Error(SWITCH_INVALID_ARGUMENT, config.directory + " was exported with --task " +
                                             name_of(config.task) +
                                             ", encode needs --task encoder");
  }
  check_lists(config, "source", lists);
  std::vector<RowCost> costs;
  for (int64_t i = 0; i < lists.batch; ++i) costs.push_back({lists.rows[i].count, 0, 0});
  const int64_t most = options.max_batch_tokens ? options.max_batch_tokens : kDefaultBatchTokens;
  std::vector<std::unique_ptr<Array>> found(costs.size());
  int64_t done = 0;
  for (const auto& batch : plan_batches(costs, most)) {
    options.listener.check_cancelled();
    const Sources sources = make_sources(config, lists, batch);
    std::vector<Array> outputs;
    outputs.emplace_back("last_hidden_state", Type::kFloat32,
                         std::vector<int64_t>{sources.batch, sources.width, config.d_model});
    run_encoder(backend, sources, outputs);
    const float* states = static_cast<float*>(outputs[0].tensor.data);
    for (size_t row = 0; row < batch.size(); ++row) {
      found[batch[row]] =
          std::make_unique<Array>(pool(states, sources.lengths[row], config.d_model, pooling));
      states += sources.width * config.d_model;
      options.listener.progress(++done, lists.batch);
    }
  }
  std::vector<Array> result;
  for (auto& array : found) result.push_back(std::move(*array));
  return result;
}

}  // namespace switch_runtime
