// Which tokens a block of vectors.cu computes: those of one expert, found by its first warp.
#ifndef SWITCH_CORE_CUDA_VECTOR_MEMBERS_H_
#define SWITCH_CORE_CUDA_VECTOR_MEMBERS_H_

#include "vectors.h"

namespace switch_ops::cuda {

// The tokens of a block; places where they come from groups.
struct Members {
  int count;
  int expert;
  int token[kFewTokens];
};

// All tokens meet the first matrix: those of slot `slot`.
__device__ inline void find_in_order(const VectorProduct& a, int slot, Members* members) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, first = slot * kFewTokens;
  const int count = min(kFewTokens, static_cast<int>(a.tokens) - first);
  if (lane < count) members->token[lane] = first + lane;
  if (lane == 0) members->count = count, members->expert = 0;
}

// Lanes below kFewTokens look at one token each: those with the expert of token `own` are members,
// and the first of them is the block that computes them all.
__device__ inline void find_by_expert(const VectorProduct& a, int own, Members* members) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int expert = -2;  // no token
  if (lane < a.tokens) {
    expert = __ldcg(a.expert + lane);
    if (expert < 0 || expert >= a.weight.count) expert = -1;
  }
  const int mine = __shfl_sync(kAllLanes, expert, own);
  const unsigned same = __ballot_sync(kAllLanes, expert == mine);
  const bool leads = __ffs(static_cast<int>(same)) - 1 == own;
  if (lane == 0) {
    members->count = mine >= 0 && leads ? __popc(same) : 0;
    members->expert = mine;
    members->token[0] = own;
  }
  __syncwarp();
  if (mine >= 0 && leads && same >> lane & 1) {
    members->token[__popc(same & ((1u << lane) - 1))] = lane;
  }
}

// Slot `slot` of all experts' groups of at most 16 places each.
__device__ inline void find_by_groups(const VectorProduct& a, int slot, Members* members) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int experts = static_cast<int>(a.weight.count);
  if (lane == 0) members->count = 0, members->expert = 0;
  __syncwarp();
  int before = 0;  // slots of earlier experts
  for (int base = 0; base < experts; base += kWarp) {
    const int e = base + lane;
    const int first = e < experts ? a.groups.first[e] : 0;
    const int count = e < experts ? a.groups.first[e + 1] - first : 0;
    const int slots = (count + kFewTokens - 1) / kFewTokens;
    const int up_to = warp_sum_to(slots);
    const int own = slot - before - (up_to - slots);
    if (own >= 0 && own < slots) {
      members->expert = e;
      members->count = min(kFewTokens, count - own * kFewTokens);
      for (int i = 0; i < members->count; ++i) members->token[i] = first + own * kFewTokens + i;
    }
    before += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_VECTOR_MEMBERS_H_
