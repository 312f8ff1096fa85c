// Whole passes without a search: encoder states, teacher-forced logits, routing.
#ifndef SWITCH_SRC_TEACHER_H_
#define SWITCH_SRC_TEACHER_H_

#include <cstdint>
#include <vector>

#include "backend.h"
#include "config.h"
#include "encoder.h"

namespace switch_runtime {

struct Tokens {
  const int64_t* ids;
  int64_t count;
};

// switch_encode, switch_forward and switch_route of the C API.
std::vector<Array> encode(Backend& backend, const Config& config, const TokenLists& lists);
std::vector<Array> forward(Backend& backend, const Config& config, Tokens source, Tokens target);
std::vector<Array> route(Backend& backend, const Config& config, Tokens source, Tokens target);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_TEACHER_H_
