// Random numbers that are a function of what they are for, not of what was drawn before: so a
// sampled sequence does not depend on its batch, on threads or on which rows ended earlier.
//
// Philox 4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
#ifndef SWITCH_SRC_RANDOM_H_
#define SWITCH_SRC_RANDOM_H_

#include <array>
#include <cstdint>

namespace switch_runtime {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox(PhiloxBlock counter, uint64_t key) {
  auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ low, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ high, static_cast<uint32_t>(a)};
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter;
}

// What a draw is for. `choice` is the row of a source, or with beams the candidate.
struct Draw {
  int64_t source;
  int64_t step;
  int64_t choice;
};

// Uniform in (0, 1), 53 bits.
inline double uniform(uint64_t seed, const Draw& draw) {
  // No call has 2^32 sources, steps or candidates of one source.
  const PhiloxBlock block =
      philox({static_cast<uint32_t>(draw.source), static_cast<uint32_t>(draw.step),
              static_cast<uint32_t>(draw.choice), static_cast<uint32_t>(draw.choice >> 32)},
             seed);
  const uint64_t bits = (uint64_t{block[0]} << 32 | block[1]) >> 11;
  return (static_cast<double>(bits) + 0.5) * 0x1p-53;
}

}  // namespace switch_runtime

#endif  // SWITCH_SRC_RANDOM_H_
