// Log-probabilities of given targets.
#include <algorithm>

#include "batches.h"
#include "error.h"
#include "logits.h"
#include "teacher.h"

namespace switch_runtime {
namespace {

// Of targets in one batch: the logits of each take vocab_size floats.
constexpr int64_t kDefaultTargetTokens = 1024;

void score_batch(Backend& backend, const Config& config, const Sources& sources,
                 const std::vector<switch_ids>& targets, const std::vector<Array*>& results) {
  const std::vector<Array> cross = make_cross(config, sources);
  run_encoder(backend, sources, cross);
  int64_t width = 0;
  for (const switch_ids& target : targets) width = std::max(width, target.count);
  std::vector<Array> outputs;
  outputs.emplace_back("logits", Type::kFloat32,
                       std::vector<int64_t>{sources.batch, width, config.vocab_size});
  run_forced(backend, config, sources, cross, targets, outputs);
  const float* rows = static_cast<float*>(outputs[0].tensor.data);
  for (size_t i = 0; i < targets.size(); ++i, rows += width * config.vocab_size) {
    float* scores = static_cast<float*>(results[i]->tensor.data);
    for (int64_t t = 0; t < targets[i].count; ++t) {
      const float* logits = rows + t * config.vocab_size;
      scores[t] = log_softmax(logits, config.vocab_size)(logits[targets[i].ids[t]]);
    }
  }
}

}  // namespace

std::vector<Array> score(Backend& backend, const Config& config, const TokenLists& sources,
                         const TokenLists& targets, const BatchOptions& options) {
  if (config.task != Task::kSeq2Seq) {
    throw Error(SWITCH_INVALID_ARGUMENT, config.directory + " was exported with --task " +
                                             name_of(config.task) + ", score needs --task seq2seq");
  }
  check_lists(config, "source", sources);
  check_lists(config, "target", targets);
  std::vector<RowCost> costs;
  std::vector<Array> result;
  for (int64_t i = 0; i < sources.batch; ++i) {
    const int64_t tokens = targets.rows[i].count;
    costs.push_back({sources.rows[i].count, tokens, 0});
    result.emplace_back("log_probability", Type::kFloat32, std::vector<int64_t>{tokens});
  }
  const int64_t most = options.max_batch_tokens ? options.max_batch_tokens : kDefaultTargetTokens;
  int64_t done = 0;
  for (const auto& batch : plan_batches(costs, most)) {
    options.listener.check_cancelled();
    std::vector<switch_ids> rows;
    std::vector<Array*> into;
    for (int64_t i : batch) {
      rows.push_back(targets.rows[i]);
      into.push_back(&result[i]);
    }
    score_batch(backend, config, make_sources(config, sources, batch), rows, into);
    done += static_cast<int64_t>(batch.size());
    options.listener.progress(done, sources.batch);
  }
  return result;
}

}  // namespace switch_runtime
