// Tokens sorted by expert, in one kernel whose blocks do not wait for each other.
//
//   block e < experts:  tokens of experts before e ──► first[e];  its own, in order ──► tokens[..]
//   block experts:      first[experts]
//   blocks after it:    rows of dropped tokens, kDroppedTokens tokens each
//
// Every block reads all of `expert`: 64 KB for 16,384 tokens, and they stay in the L2 cache.
#include <algorithm>

#include "launch.h"
#include "numbers.h"
#include "products.h"
#include "reduce.h"

namespace switch_ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDroppedTokens = 32;

struct Sort {
  const int32_t* expert;  // null: all 0
  int tokens, experts;
  Groups groups;
};

struct DroppedRows {
  Dropped dropped;
  const void* x;
  WeightType x_type;
  const float* gate;
  float* y;
  int columns;
  bool accumulate;
};

__device__ __forceinline__ int expert_of(const Sort& a, int t) {
  const int e = a.expert ? a.expert[t] : 0;
  return e >= 0 && e < a.experts ? e : -1;
}

// Tokens of experts 0 .. e - 1; every thread gets the number. `counts`: kWarps of shared memory.
__device__ int count_before(const Sort& a, int e, int* counts) {
  int own = 0;
  for (int t = static_cast<int>(threadIdx.x); t < a.tokens; t += kThreads) {
    const int other = expert_of(a, t);
    own += other >= 0 && other < e;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) own += __shfl_xor_sync(kAllLanes, own, step);
  if (threadIdx.x % kWarp == 0) counts[threadIdx.x / kWarp] = own;
  __syncthreads();
  int total = 0;
  for (int i = 0; i < kWarps; ++i) total += counts[i];
  __syncthreads();
  return total;
}

// The tokens of `e` to the places from `first` on, kThreads tokens at a time.
__device__ void place_tokens(const Sort& a, int e, int first, int* counts) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const unsigned below = (1u << threadIdx.x % kWarp) - 1;
  for (int start = 0; start < a.tokens; start += kThreads) {
    const int t = start + static_cast<int>(threadIdx.x);
    const bool own = t < a.tokens && expert_of(a, t) == e;
    const unsigned same = __ballot_sync(kAllLanes, own);
    if (threadIdx.x % kWarp == 0) counts[warp] = __popc(same);
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < kWarps; ++i) {
      before += i < warp ? counts[i] : 0;
      all += counts[i];
    }
    if (own) a.groups.tokens[first + before + __popc(same & below)] = t;
    first += all;
    __syncthreads();
  }
}

// `select`: a dropped token's 0 is written, not computed.
__device__ void write_dropped(const Sort& a, const DroppedRows& rows, int first_token) {
  const int last = min(a.tokens, first_token + kDroppedTokens);
  for (int t = first_token; t < last; ++t) {
    if (expert_of(a, t) >= 0) continue;
    const int64_t start = static_cast<int64_t>(t) * rows.columns;
    const float gate = rows.gate ? rows.gate[t] : 1;
    for (int i = static_cast<int>(threadIdx.x); i < rows.columns; i += kThreads) {
      float value = 0;
      if (rows.dropped == Dropped::kPass) value = gate * load_value(rows.x, rows.x_type, start + i);
      rows.y[start + i] = rows.accumulate ? rows.y[start + i] + value : value;
    }
  }
}

__global__ void __launch_bounds__(kThreads) sort(const Sort a, const DroppedRows rows) {
  auto* counts = reinterpret_cast<int*>(ptx::shared_memory());
  const int e = static_cast<int>(blockIdx.x);
  ptx::dependency_wait();
  ptx::dependency_launch();
  if (e > a.experts) return write_dropped(a, rows, (e - a.experts - 1) * kDroppedTokens);
  const int first = count_before(a, e, counts);
  if (threadIdx.x == 0) a.groups.first[e] = first;
  if (e < a.experts) place_tokens(a, e, first, counts);
}

}  // namespace

void sort_tokens(const Stream& stream, const Moe& a, const Groups& groups, bool accumulate) {
  const bool writes_dropped = a.expert && !(accumulate && a.dropped == Dropped::kZero);
  const int64_t blocks =
      a.wi.count + 1 + (writes_dropped ? (a.tokens + kDroppedTokens - 1) / kDroppedTokens : 0);
  const Sort sort_arguments{a.expert, static_cast<int>(a.tokens), static_cast<int>(a.wi.count),
                            groups};
  const DroppedRows rows{a.dropped, a.x, a.x_type, a.gate, a.y, static_cast<int>(a.wi.columns),
                         accumulate};
  launch(stream, "sort of tokens", {dim3(static_cast<unsigned>(blocks)), kThreads, 4 * kWarps},
         sort, sort_arguments, rows);
}

}  // namespace switch_ops::cuda
