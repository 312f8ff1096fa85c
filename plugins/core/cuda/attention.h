// Attention of few queries over many keys, for both kinds of keys and values.
#ifndef SWITCH_CORE_CUDA_ATTENTION_H_
#define SWITCH_CORE_CUDA_ATTENTION_H_

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <stdexcept>
#include <string>

#include "launch.h"
#include "numbers.h"
#include "reduce.h"

namespace switch_ops::cuda {

constexpr int kLeastWarps = 2, kMostSize = 256;  // of a block, of a head
// Of a block: with more queries each thread has more to remember, and two blocks hide latencies.
constexpr int most_warps(int queries) { return queries == 1 ? 16 : 6; }
constexpr int least_blocks(int queries) { return queries == 1 ? 1 : 2; }

struct Float32 {
  static constexpr WeightType kType = WeightType::kFloat32;
};

// Eight values that lie one after another, 16-byte aligned.
template <typename Type>
struct Eight {
  static constexpr bool kIsFloat = Type::kType == WeightType::kFloat32;
  static constexpr int kBytes = kIsFloat ? 4 : 2;  // of a value

  uint4 words[kBytes / 2];

  // The address of the value at `index` of an array.
  static __device__ __forceinline__ const char* at(const void* array, int64_t index) {
    return static_cast<const char*>(array) + index * kBytes;
  }
  __device__ __forceinline__ void load(const char* address) {
    const auto* from = reinterpret_cast<const uint4*>(address);
#pragma unroll
    for (int i = 0; i < kBytes / 2; ++i) words[i] = from[i];
  }
  __device__ __forceinline__ void store(void* array, int64_t index) const {
    auto* to = reinterpret_cast<uint4*>(static_cast<char*>(array) + index * kBytes);
#pragma unroll
    for (int i = 0; i < kBytes / 2; ++i) to[i] = words[i];
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kBytes / 2; ++i) words[i] = make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void values(float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < kBytes / 2; ++i) {
      const uint32_t w[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (kIsFloat) {
          v[4 * i + k] = __uint_as_float(w[k]);
        } else {
          const float2 two = Type::unpack(w[k]);
          v[2 * k] = two.x, v[2 * k + 1] = two.y;
        }
      }
    }
  }
  __device__ __forceinline__ float dot(const float (&other)[8]) const {
    float own[8], sum = 0;
    values(own);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(own[i], other[i], sum);
    return sum;
  }
};

// What a group of lanes knows of a query so far: the largest score, and relative to it the sum of
// powers and this lane's eight of the sum of values. No key yet: the lowest score that there is.
struct Partial {
  float most = -FLT_MAX, total = 0, values[8] = {};

  // Everything relative to `score` from now on.
  __device__ __forceinline__ void move_to(float score) {
    const float factor = expf(most - score);
    most = score, total *= factor;
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= factor;
  }
  template <typename Type, int kCount>
  __device__ __forceinline__ void add(const float (&scores)[kCount],
                                      const Eight<Type> (&rows)[kCount]) {
    float highest = most;
#pragma unroll
    for (int n = 0; n < kCount; ++n) highest = fmaxf(highest, scores[n]);
    move_to(highest);
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const float power = expf(scores[n] - highest);
      float row[8];
      rows[n].values(row);
      total += power;
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] = fmaf(power, row[i], values[i]);
    }
  }
};

template <int kLanes>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
  return v;
}

// The sum of the groups of a warp, in each of them.
template <int kLanes>
__device__ __forceinline__ void combine_groups(Partial& p) {
  float most = p.most;
#pragma unroll
  for (int step = kLanes; step < kWarp; step *= 2) {
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
  }
  p.move_to(most);
#pragma unroll
  for (int step = kLanes; step < kWarp; step *= 2) {
    p.total += __shfl_xor_sync(kAllLanes, p.total, step);
#pragma unroll
    for (int i = 0; i < 8; ++i) p.values[i] += __shfl_xor_sync(kAllLanes, p.values[i], step);
  }
}

// [warps, queries] of size + 2 floats in shared memory: most, total, values.
__device__ __forceinline__ float* partial_of(int warp, int query, int queries, int size) {
  auto* memory = reinterpret_cast<float*>(ptx::shared_memory());
  return memory + (warp * queries + query) * (size + 2);
}

// The sum of the warps' partials, and the end.
template <typename Keys, int kQueries>
__device__ __forceinline__ void combine_warps(const Keys& keys, int size, void* y) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < keys.queries() * size;
       i += static_cast<int>(blockDim.x)) {
    const int query = kQueries == 1 ? 0 : i / size, d = i - query * size;
    float most = -FLT_MAX, total = 0, value = 0;
    for (int w = 0; w < warps; ++w) most = fmaxf(most, partial_of(w, query, kQueries, size)[0]);
    for (int w = 0; w < warps; ++w) {
      const float* p = partial_of(w, query, kQueries, size);
      const float factor = expf(p[0] - most);
      total += factor * p[1], value += factor * p[2 + d];
    }
    store_value(y, Keys::Type::kType, keys.output(query) + d, value / total);
  }
}

// All of the block's partials as the queries' results.
template <typename Keys, int kLanes, int kQueries>
__device__ __forceinline__ void finish(const Keys& keys, Partial (&partial)[kQueries], int size,
                                       void* y) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, first = 8 * lane;
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    combine_groups<kLanes>(partial[i]);
    if (lane >= kLanes || first >= size) continue;
    float* to = partial_of(static_cast<int>(threadIdx.x) / kWarp, i, kQueries, size);
    if (lane == 0) to[0] = partial[i].most, to[1] = partial[i].total;
#pragma unroll
    for (int d = 0; d < 8; ++d) to[2 + first + d] = partial[i].values[d];
  }
  __syncthreads();
  combine_warps<Keys, kQueries>(keys, size, y);
}

// What a group loads in one turn: keys j, j + groups, .. and their values.
//
// Loads have no conditions, so that all of them are on their way before the first is used: beyond
// the last key that one is read again, for nothing.
template <typename Keys, int kAhead>
struct Turn {
  Eight<typename Keys::Type> key[kAhead], value[kAhead];
  float extra[kAhead];

  __device__ __forceinline__ void load(const Keys& keys, int j, int groups) {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int own = min(j + groups * n, keys.count() - 1);
      keys.load(own, key[n], value[n]);
      extra[n] = keys.extra(own);
    }
  }
};

// One block for kQueries queries of one head, which have the same keys. A group of kLanes lanes has
// a key, and a lane eight of its values:
//
//   lane of group     0        1        2     ..        a group: kAhead keys at a time,
//   value         0 .. 7   8 .. 15  16 .. 23  ..        key = j + groups * n
//
// Each group keeps a Partial for each query (a softmax of the keys as they come, in one pass). At
// the end those of a warp are summed by shuffles, and those of the block in shared memory.
//
//   Keys(arguments, at)               what a lane reads: values `at` .. `at` + 7 of all rows
//   keys.count(), keys.queries()      of this block, at least 1
//   keys.query(i)                     the address of a query's values
//   keys.load(j, k, v)                values of key j
//   keys.extra(j), keys.score(s, extra)    what key j makes of s = q . k
//   keys.end()                        what else is written
//   keys.output(i)                    index of the head's first value of a query in y
//
// Lanes beyond a row read its first values, for nothing.
template <typename Keys, int kLanes, int kQueries, int kAhead>
__global__ void __launch_bounds__(most_warps(kQueries) * kWarp, least_blocks(kQueries))
    attend(const typename Keys::Arguments a) {
  using Values = Eight<typename Keys::Type>;
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int size = static_cast<int>(a.size);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int groups = static_cast<int>(blockDim.x) / kLanes;
  const bool has_values = 8 * (lane % kLanes) < size;
  const int first = has_values ? 8 * (lane % kLanes) : 0;
  const Keys keys(a, first);
  const int count = keys.count();
  Values query[kQueries];
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    query[i].clear();
    if (has_values && i < keys.queries()) query[i].load(keys.query(i));
  }
  Turn<Keys, kAhead> turn;
  Partial partial[kQueries];
  // A warp ends where none of its groups has a key.
  int j = group;
  bool has_keys = j - lane / kLanes < count;
  if (has_keys) turn.load(keys, j, groups);
  while (has_keys) {
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      float q[8], scores[kAhead];
      query[i].values(q);
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        const float product = lanes_sum<kLanes>(turn.key[n].dot(q));
        scores[n] = j + groups * n < count ? keys.score(product, turn.extra[n]) : -INFINITY;
      }
      partial[i].add(scores, turn.value);
    }
    j += groups * kAhead;
    has_keys = j - lane / kLanes < count;
    if (has_keys) turn.load(keys, j, groups);
  }
  keys.end();
  finish<Keys, kLanes>(keys, partial, size, a.y);
}

struct Blocks {
  dim3 blocks;
  int64_t keys;  // of one block, at most
};

template <typename Keys, int kLanes, int kQueries, int kAhead>
void start_attention(const Stream& stream, const char* what, const Blocks& grid,
                     const typename Keys::Arguments& a) {
  // As many warps as have keys in the first turn.
  const int64_t turn = kWarp / kLanes * kAhead;
  const auto warps = static_cast<int>(
      std::clamp<int64_t>((grid.keys + turn - 1) / turn, kLeastWarps, most_warps(kQueries)));
  const size_t floats = static_cast<size_t>(warps * kQueries) * static_cast<size_t>(a.size + 2);
  launch(stream, what, {grid.blocks, warps * kWarp, floats * sizeof(float)},
         attend<Keys, kLanes, kQueries, kAhead>, a);
}

// `Keys` of the type and for heads of the size in `a`.
template <template <typename> class Keys, int kQueries, int kAhead, typename Arguments>
void start_attention(const Stream& stream, const char* what, const Blocks& grid,
                     const Arguments& a) {
  const auto with = [&](auto type) {
    using Own = Keys<decltype(type)>;
    if (a.size <= 64) return start_attention<Own, 8, kQueries, kAhead>(stream, what, grid, a);
    if (a.size <= 128) return start_attention<Own, 16, kQueries, kAhead>(stream, what, grid, a);
    return start_attention<Own, 32, kQueries, kAhead>(stream, what, grid, a);
  };
  switch (static_cast<WeightType>(a.type)) {
    case WeightType::kFloat16: return with(Float16{});
    case WeightType::kBFloat16: return with(BFloat16{});
    default: return with(Float32{});
  }
}

// The checks that both operators share; `name` is the operator's.
class AttentionChecks {
 public:
  explicit AttentionChecks(const char* name) : name_(name) {}

  void require(bool holds, const std::string& problem) const {
    if (!holds) throw std::invalid_argument(name_ + ": " + problem);
  }
  void at_least(const char* what, int64_t value, int64_t least) const {
    require(value >= least && value <= INT_MAX, std::string(what) + " is " + std::to_string(value) +
                                                    ", expected at least " + std::to_string(least) +
                                                    " and below 2^31");
  }
  // Of blocks and of heads.
  void shape(int64_t rows, int64_t tokens, int64_t heads, int64_t size) const {
    at_least("rows", rows, 0), at_least("tokens", tokens, 0), at_least("heads", heads, 1);
    require(heads <= 65535, "heads is " + std::to_string(heads) + ", expected at most 65535");
    require(tokens == 0 || rows <= INT_MAX / tokens, "rows is " + std::to_string(rows) + " of " +
                                                         std::to_string(tokens) +
                                                         " tokens, expected below 2^31 in all");
    require(size > 0 && size <= kMostSize && size % 8 == 0,
            "size is " + std::to_string(size) + ", expected a multiple of 8 up to " +
                std::to_string(kMostSize));
  }
  void type(int32_t type) const {
    require(type >= 0 && type <= static_cast<int32_t>(WeightType::kBFloat16),
            "type is " + std::to_string(type) + ", expected a float type (0, 1 or 2)");
  }
  void array(const char* what, const void* pointer) const {
    require(pointer, std::string(what) + " is NULL, expected an array on the device");
    aligned(what, pointer);
  }
  void aligned(const char* what, const void* pointer) const {
    require(reinterpret_cast<uintptr_t>(pointer) % 16 == 0,
            std::string(what) + " is not aligned, expected a multiple of 16 bytes");
  }

 private:
  std::string name_;
};

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_ATTENTION_H_
