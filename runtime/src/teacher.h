// Whole passes without a search: encoder states, teacher-forced logits and scores, routing.
#ifndef SWITCH_SRC_TEACHER_H_
#define SWITCH_SRC_TEACHER_H_

#include <cstdint>
#include <vector>

#include "backend.h"
#include "config.h"
#include "encoder.h"
#include "options.h"

namespace switch_runtime {

// switch_batch_options, checked.
struct BatchOptions {
  int64_t max_batch_tokens = 0;  // 0: the function's default
  Listener listener;
};

BatchOptions read_batch_options(const switch_batch_options& options);

// switch_encode, switch_score, switch_forward and switch_route of the C API.
std::vector<Array> encode(Backend& backend, const Config& config, const TokenLists& sources,
                          switch_pooling pooling, const BatchOptions& options);
std::vector<Array> score(Backend& backend, const Config& config, const TokenLists& sources,
                         const TokenLists& targets, const BatchOptions& options);
std::vector<Array> forward(Backend& backend, const Config& config, const switch_ids& source,
                           const switch_ids& target);
std::vector<Array> route(Backend& backend, const Config& config, const switch_ids& source,
                         const switch_ids* target);

// Throws Error SWITCH_INVALID_ARGUMENT if the directory has no decoder.
void check_decodes(const Config& config);

// One pass of the decoder over the start token and all but the last token of every target, one
// for each source; shorter ones are padded on the right.
void run_forced(Backend& backend, const Config& config, const Sources& sources,
                const std::vector<Array>& cross, const std::vector<switch_ids>& targets,
                const std::vector<Array>& outputs);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_TEACHER_H_
