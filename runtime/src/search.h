// What the searches over one batch share.
#ifndef SWITCH_SRC_SEARCH_H_
#define SWITCH_SRC_SEARCH_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "config.h"
#include "decoder.h"
#include "logits.h"
#include "options.h"
#include "processors.h"

namespace switch_runtime {

struct Sequence {
  std::vector<int64_t> ids;  // without prefix, eos and what follows
  float score = 0;
  int64_t eos = -1;  // the token that ended it; -1: the length limit
};

// One source of a batch.
struct Item {
  int64_t source;               // its place in the call
  std::vector<int64_t> ids;     // its tokens
  std::vector<int64_t> prefix;  // what the decoder is given
};

// One batch of a call. Items leave it as they finish.
class SearchContext {
 public:
  SearchContext(const Config& config, const SearchOptions& options, std::vector<Item> batch,
                Lengths lengths);

  const Config& config;
  const SearchOptions& options;
  const Lengths lengths;
  const Processors processors;
  std::function<void(int64_t source, std::vector<Sequence>)> on_finished;

  const std::vector<Item>& items() const { return items_; }

  // length ** length_penalty in float32, the type of the scores.
  float penalty(int64_t length) const;

  // Apply options and callback to the scores [rows, vocab] of what follows `ids`, [rows].
  void process(float* scores, const std::vector<std::vector<int64_t>>& ids) const;

  // Whether process() may change anything.
  bool processes() const { return processors.active() || options.listener.on_logits; }

  // Hand over the sequences of an item and drop it: the last one takes its place.
  void finish(int64_t item, std::vector<Sequence> sequences);

 private:
  std::vector<Item> items_;
};

// Throws Error SWITCH_INVALID_ARGUMENT: the options left no token that may follow.
[[noreturn]] void refuse_dead_end(int64_t source, int64_t length);

void sample(Decoder& decoder, SearchContext& context);
void beam_search(Decoder& decoder, SearchContext& context);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_SEARCH_H_
