// One generate call: batches of similar sources, each with a search over a Decoder.
#ifndef SWITCH_SRC_GENERATE_H_
#define SWITCH_SRC_GENERATE_H_

#include <cstdint>
#include <vector>

#include "backend.h"
#include "config.h"
#include "encoder.h"
#include "options.h"
#include "search.h"

namespace switch_runtime {

struct Generated {
  std::vector<Sequence> sequences;  // num_return_sequences per source, the best first
  int64_t steps = 0;
};

// Throws Error SWITCH_CANCELLED, SWITCH_OUT_OF_MEMORY, SWITCH_INVALID_ARGUMENT, SWITCH_FAILED.
Generated generate(Backend& backend, const Config& config, const TokenLists& lists,
                   const SearchOptions& options);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_GENERATE_H_
