// How much memory a call will need, so that one that cannot fit is refused before it starts:
// an allocation that the system grants but cannot back would end the process.
#ifndef SWITCH_SRC_MEMORY_H_
#define SWITCH_SRC_MEMORY_H_

#include <cstdint>
#include <string>

#include "config.h"

namespace switch_runtime {

// Bytes, as double: sizes that no machine has must not overflow.
double encoder_demand(const Config& config, int64_t batch, int64_t width);

struct DecoderDemand {
  int64_t rows;
  int64_t steps;   // in one call
  int64_t cached;  // largest number of cached tokens
  int64_t width;   // of the sources
};
double decoder_demand(const Config& config, const DecoderDemand& demand);

// Memory this process may use: the machine's, or its container's if that is less.
double memory_limit();

// Throws Error SWITCH_OUT_OF_MEMORY: "WHAT needs about X GiB, ... ADVICE".
void check_memory(const std::string& what, double bytes, const std::string& advice);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_MEMORY_H_
