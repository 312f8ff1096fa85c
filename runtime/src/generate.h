// One generate call: checked options, then greedy or beam search over a Decoder.
#ifndef SWITCH_SRC_GENERATE_H_
#define SWITCH_SRC_GENERATE_H_

#include <cstdint>
#include <vector>

#include "backend.h"
#include "config.h"
#include "decoder.h"
#include "encoder.h"

namespace switch_runtime {

struct SearchOptions {
  int64_t num_beams = 1;
  int64_t num_return_sequences = 1;
  int64_t max_new_tokens = 20;
  int64_t min_new_tokens = 0;
  double length_penalty = 1.0;
  switch_early_stopping early_stopping = SWITCH_EARLY_STOPPING_FALSE;
  const volatile int32_t* cancel = nullptr;
};

struct Sequence {
  std::vector<int64_t> ids;  // without start token, eos and what follows
  float score = 0;
  int64_t eos = -1;  // the token that ended it; -1: the length limit
};

struct Generated {
  std::vector<Sequence> sequences;  // num_return_sequences per source, the best first
  int64_t steps = 0;
};

// The options of the C API with the model's defaults, checked. Throws Error SWITCH_INVALID_ARGUMENT
// with every problem.
SearchOptions read_search_options(const Config& config, const switch_generate_options& options);

switch_generate_options default_options(const Config& config);

// Throws Error SWITCH_CANCELLED, SWITCH_OUT_OF_MEMORY, SWITCH_INVALID_ARGUMENT, SWITCH_FAILED.
Generated generate(Backend& backend, const Config& config, const TokenLists& lists,
                   const SearchOptions& options);

// What both searches need besides their options.
class SearchContext {
 public:
  SearchContext(const Config& config, const SearchOptions& options)
      : config(config), options(options) {}

  const Config& config;
  const SearchOptions& options;

  bool is_eos(int64_t token) const;

  // length ** length_penalty in float32, the type of the scores.
  float penalty(int64_t length) const;

  // Throws Error SWITCH_CANCELLED if the caller asked for it.
  void check_cancelled() const;

  // Make eos impossible while fewer than min_new_tokens were generated.
  void forbid_early_eos(float* logits, int64_t generated) const;
};

std::vector<Sequence> greedy_search(Decoder& decoder, const SearchContext& context);
std::vector<Sequence> beam_search(Decoder& decoder, const SearchContext& context);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_GENERATE_H_
