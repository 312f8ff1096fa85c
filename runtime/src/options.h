// The options of one generate call: the C API's struct, checked and copied.
#ifndef SWITCH_SRC_OPTIONS_H_
#define SWITCH_SRC_OPTIONS_H_

#include <cstdint>
#include <vector>

#include "config.h"
#include "listener.h"

namespace switch_runtime {

constexpr int64_t kDefaultBatchTokens = 8192;

struct SearchOptions : GenerationOptions {
  SearchOptions() = default;
  explicit SearchOptions(const GenerationOptions& defaults) : GenerationOptions(defaults) {}

  uint64_t seed = 0;
  // What the decoder reads, start token included: one list for all sources, or one per source.
  std::vector<std::vector<int64_t>> prefixes;
  int64_t max_batch_tokens = kDefaultBatchTokens;
  Listener listener;

  // Rows that decode one source.
  int64_t rows_per_source() const { return num_beams > 1 ? num_beams : num_return_sequences; }

  bool is_eos(int64_t token) const;

  // What a search keeps of each beam, so that it can go on where every eos is among the best.
  int64_t candidates_per_beam() const;

  // What the decoder reads first for a source, and how many tokens, those included, it may have.
  std::vector<int64_t> prefix_of(int64_t source) const;
  int64_t length_limit(int64_t prefix) const;
};

switch_generate_options default_options(const Config& config);

// Throws Error SWITCH_INVALID_ARGUMENT with every problem. `batch` is the number of sources.
SearchOptions read_search_options(const Config& config, const switch_generate_options& options,
                                  int64_t batch);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_OPTIONS_H_
