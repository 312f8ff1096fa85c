#include "processors.h"

#include <algorithm>
#include <limits>

namespace switch_runtime {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

void forbid(float* scores, const std::vector<int64_t>& tokens) {
  for (int64_t token : tokens) scores[token] = kForbidden;
}

// Whether `ids` ends with the first `count` of `words`.
bool ends_with(const std::vector<int64_t>& ids, const int64_t* words, size_t count) {
  return ids.size() >= count && std::equal(words, words + count, ids.end() - count);
}

// Forbid what would make the last `size` tokens an n-gram of `text`.
void forbid_ngrams(float* scores, const std::vector<int64_t>& ids, const std::vector<int64_t>& text,
                   int64_t size) {
  const auto before = static_cast<size_t>(size) - 1;
  if (ids.size() < before) return;
  for (size_t i = 0; i + before < text.size(); ++i) {
    if (ends_with(ids, text.data() + i, before)) scores[text[i + before]] = kForbidden;
  }
}

int64_t first_chosen(const SearchOptions& options, int64_t prefix) {
  return prefix > 1 || options.forced_bos < 0 ? prefix : prefix + 1;
}

bool any(const SearchOptions& options) {
  return options.repetition_penalty != 1 || options.no_repeat_ngram_size > 0 ||
         options.encoder_no_repeat_ngram_size > 0 || !options.bad_words.empty() ||
         options.min_length > 0 || options.min_new_tokens > 0 || options.forced_bos >= 0 ||
         !options.forced_eos.empty() || !options.suppress.empty() ||
         !options.begin_suppress.empty();
}

}  // namespace

Processors::Processors(const SearchOptions& options, int64_t vocab_size, Lengths lengths)
    : options_(options),
      vocab_size_(vocab_size),
      lengths_(lengths),
      first_chosen_(first_chosen(options, lengths.prefix)),
      active_(any(options)) {}

void Processors::apply(float* scores, const std::vector<int64_t>& ids,
                       const std::vector<int64_t>& source) const {
  if (!active_) return;
  const auto length = static_cast<int64_t>(ids.size());
  if (options_.repetition_penalty != 1) penalise_repetition(scores, ids);
  if (const int64_t size = options_.no_repeat_ngram_size) forbid_ngrams(scores, ids, ids, size);
  if (const int64_t size = options_.encoder_no_repeat_ngram_size) {
    forbid_ngrams(scores, ids, source, size);
  }
  forbid_bad_words(scores, ids);
  if (is_too_short(length)) forbid(scores, options_.eos);
  if (options_.forced_bos >= 0 && length == 1) force(scores, {options_.forced_bos});
  if (!options_.forced_eos.empty() && length == lengths_.limit - 1) {
    force(scores, options_.forced_eos);
  }
  forbid(scores, options_.suppress);
  if (length == first_chosen_) forbid(scores, options_.begin_suppress);
}

void Processors::penalise_repetition(float* scores, const std::vector<int64_t>& ids) const {
  std::vector<int64_t> seen = ids;  // each token once
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (int64_t token : seen) {
    float& score = scores[token];
    score = score < 0 ? score * penalty : score / penalty;
  }
}

void Processors::forbid_bad_words(float* scores, const std::vector<int64_t>& ids) const {
  for (const std::vector<int64_t>& word : options_.bad_words) {
    const size_t before = word.size() - 1;
    const bool ends = before == 0 && options_.is_eos(word[0]);
    // A word that is an eos would keep sequences from ending: transformers leaves it out.
    if (!ends && ends_with(ids, word.data(), before)) scores[word[before]] = kForbidden;
  }
}

// min_new_tokens wins over min_length, which counts the prefix.
bool Processors::is_too_short(int64_t length) const {
  if (options_.min_new_tokens >= 0) return length - lengths_.prefix < options_.min_new_tokens;
  return length < options_.min_length;
}

void Processors::force(float* scores, const std::vector<int64_t>& tokens) const {
  std::fill_n(scores, vocab_size_, kForbidden);
  for (int64_t token : tokens) scores[token] = 0;
}

}  // namespace switch_runtime
