#include "search.h"

#include <cmath>

#include "error.h"

namespace switch_runtime {

SearchContext::SearchContext(const Config& config, const SearchOptions& options,
                             std::vector<Item> batch, Lengths lengths)
    : config(config),
      options(options),
      lengths(lengths),
      processors(options, config.vocab_size, lengths),
      items_(std::move(batch)) {}

float SearchContext::penalty(int64_t length) const {
  return static_cast<float>(std::pow(static_cast<double>(length), options.length_penalty));
}

void SearchContext::process(float* scores, const std::vector<std::vector<int64_t>>& ids) const {
  const size_t each = ids.size() / items_.size();
  for (size_t row = 0; row < ids.size(); ++row) {
    float* row_scores = scores + row * static_cast<size_t>(config.vocab_size);
    processors.apply(row_scores, ids[row], items_[row / each].ids);
  }
  if (!options.listener.on_logits) return;
  std::vector<int64_t> flat, sources;
  for (size_t row = 0; row < ids.size(); ++row) {
    flat.insert(flat.end(), ids[row].begin(), ids[row].end());
    sources.push_back(items_[row / each].source);
  }
  const auto rows = static_cast<int64_t>(ids.size()), length = static_cast<int64_t>(ids[0].size());
  options.listener.logits({rows, length, config.vocab_size, flat.data(), sources.data(), scores});
  bool usable = true;
  for (int64_t i = 0; i < rows * config.vocab_size; ++i) usable &= scores[i] < INFINITY;
  if (!usable) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                "on_logits left NaN or +inf among the scores, expected numbers or -inf");
  }
}

void SearchContext::finish(int64_t item, std::vector<Sequence> sequences) {
  on_finished(items_[item].source, std::move(sequences));
  std::swap(items_[item], items_.back());
  items_.pop_back();
}

void refuse_dead_end(int64_t source, int64_t length) {
  throw Error(SWITCH_INVALID_ARGUMENT,
              "the options forbid every token that could follow the first " +
                  std::to_string(length) + " of source " + std::to_string(source) +
                  "; forbid fewer (suppress_tokens, bad_words_ids, no_repeat_ngram_size, ...)");
}

}  // namespace switch_runtime
