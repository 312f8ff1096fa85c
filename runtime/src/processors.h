// transformers' logits processors (5.23): what the options do to one row of scores before a token
// is chosen from it.
#ifndef SWITCH_SRC_PROCESSORS_H_
#define SWITCH_SRC_PROCESSORS_H_

#include <cstdint>
#include <vector>

#include "options.h"

namespace switch_runtime {

// Lengths in tokens of the decoder, start token included.
struct Lengths {
  int64_t prefix;  // what the decoder was given
  int64_t limit;   // the longest sequence

  int64_t most_new() const { return limit - prefix; }
};

class Processors {
 public:
  Processors(const SearchOptions& options, int64_t vocab_size, Lengths lengths);

  // Whether a row can come out changed, of any length.
  bool active() const { return active_; }

  // Change the scores [vocab_size] of the token that follows `ids`. They are logits, or
  // log-probabilities with beams: transformers' processors get the one or the other, too.
  void apply(float* scores, const std::vector<int64_t>& ids,
             const std::vector<int64_t>& source) const;

 private:
  void penalise_repetition(float* scores, const std::vector<int64_t>& ids) const;
  void forbid_bad_words(float* scores, const std::vector<int64_t>& ids) const;
  bool is_too_short(int64_t length) const;
  // Nothing but `tokens`, all of them certain.
  void force(float* scores, const std::vector<int64_t>& tokens) const;

  const SearchOptions& options_;
  const int64_t vocab_size_;
  const Lengths lengths_;
  const int64_t first_chosen_;  // length at which begin_suppress_tokens holds
  const bool active_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_PROCESSORS_H_
