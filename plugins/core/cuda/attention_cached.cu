// SwitchCachedAttention: keys of a cache, then the new ones of qkv.
#include "attention.h"

namespace switch_ops::cuda {
namespace {

// A block is one token of one row, and one head; key j of it:
//
//   place      0 .. position - 1       position .. position + token       beyond
//   is in      key, value (cached)     qkv of the same row                not seen
//
// The rows of qkv go where later calls find them: to new_key and new_value, or to the cache from
// `position` on, where no block of this call reads.
template <typename T>
struct CachedKeys {
  using Type = T;
  using Arguments = switch_cuda_cached_attention;

  const Arguments& a;
  int head, token, position, distance;
  int64_t row;
  int cached_step, fresh_step;  // bytes from one key to the next
  const char *cached_key, *cached_value, *fresh_key, *fresh_value;
  Eight<Type> own;  // eight values of the new rows for each of the first threads

  __device__ __forceinline__ CachedKeys(const Arguments& a, int at) : a(a) {
    using Values = Eight<Type>;
    const auto tokens = static_cast<unsigned>(a.tokens);
    head = static_cast<int>(blockIdx.y);
    row = blockIdx.x / tokens, token = static_cast<int>(blockIdx.x % tokens);
    // Outside the cache nothing is read or written, whatever the position.
    position = static_cast<int>(min(max(*a.position, int64_t{0}), a.capacity));
    distance = static_cast<int>(a.distance);
    cached_step = static_cast<int>(a.size) * Values::kBytes;
    fresh_step = 3 * static_cast<int>(a.heads) * cached_step;
    const int64_t cached = (row * a.heads + head) * a.capacity * a.size;
    cached_key = Values::at(a.key, cached + at), cached_value = Values::at(a.value, cached + at);
    fresh_key = Values::at(a.qkv, fresh(0, 1) + at);
    fresh_value = Values::at(a.qkv, fresh(0, 2) + at);
    if (moves()) own.load(Values::at(a.qkv, fresh(token, is_value() ? 2 : 1) + place()));
  }

  __device__ __forceinline__ int count() const { return position + token + 1; }
  __device__ __forceinline__ int queries() const { return 1; }
  __device__ __forceinline__ const char* query(int) const {
    return fresh_key + static_cast<int64_t>(token) * fresh_step - fresh_step / 3;
  }
  __device__ __forceinline__ int64_t output(int) const {
    return ((row * a.tokens + token) * a.heads + head) * a.size;
  }
  __device__ __forceinline__ void load(int j, Eight<Type>& k, Eight<Type>& v) const {
    const bool is_cached = j < position;
    const int step = is_cached ? cached_step : fresh_step;
    const int64_t by = static_cast<int64_t>(is_cached ? j : j - position) * step;
    k.load((is_cached ? cached_key : fresh_key) + by);
    v.load((is_cached ? cached_value : fresh_value) + by);
  }
  __device__ __forceinline__ float extra(int j) const {
    const int behind = min(position + token - j, distance);
    return a.bias[static_cast<int64_t>(distance - behind) * static_cast<int>(a.heads) + head];
  }
  static __device__ __forceinline__ float score(float product, float extra) {
    return product + extra;
  }

  __device__ __forceinline__ void end() const {
    if (!moves()) return;
    const int64_t line = row * a.heads + head;
    if (a.new_key) {
      own.store(is_value() ? a.new_value : a.new_key, (line * a.tokens + token) * a.size + place());
    } else if (position + token < a.capacity) {
      own.store(is_value() ? a.value : a.key,
                (line * a.capacity + position + token) * a.size + place());
    }
  }

 private:
  // Index of the head's q (0), k (1) or v (2) of a new token in qkv.
  __device__ __forceinline__ int64_t fresh(int t, int which) const {
    return (((row * a.tokens + t) * 3 + which) * a.heads + head) * a.size;
  }
  // Of the new rows: first k, then v, eight values a thread.
  __device__ __forceinline__ bool moves() const { return 8 * threadIdx.x < 2 * a.size; }
  __device__ __forceinline__ bool is_value() const { return 8 * threadIdx.x >= a.size; }
  __device__ __forceinline__ int64_t place() const {
    return 8 * threadIdx.x - (is_value() ? a.size : 0);
  }
};

static_assert(kLeastWarps * kWarp * 8 >= 2 * kMostSize, "threads that move the new rows");

void check_cached(const switch_cuda_cached_attention& a) {
  const AttentionChecks checks("SwitchCachedAttention");
  checks.shape(a.rows, a.tokens, a.heads, a.size);
  checks.type(a.type);
  checks.at_least("capacity", a.capacity, 0);
  checks.at_least("distance", a.distance, 0);
  checks.at_least("capacity + tokens", a.capacity + a.tokens, 0);
  checks.require((a.new_key == nullptr) == (a.new_value == nullptr),
                 "one of new_key and new_value is NULL, expected both or neither");
  checks.require(a.new_key || a.tokens <= a.capacity,
                 "tokens is " + std::to_string(a.tokens) + ", expected at most the capacity of " +
                     std::to_string(a.capacity) + " of the cache that they go into");
}

void check_cached_arrays(const switch_cuda_cached_attention& a) {
  const AttentionChecks checks("SwitchCachedAttention");
  checks.array("qkv", a.qkv), checks.array("y", a.y);
  checks.require(a.position && a.bias, "position or bias is NULL, expected arrays on the device");
  if (a.capacity > 0) checks.array("key", a.key), checks.array("value", a.value);
  checks.aligned("new_key", a.new_key), checks.aligned("new_value", a.new_value);
}

}  // namespace

void cached_attention(const Stream& stream, const switch_cuda_cached_attention& a) {
  check_cached(a);
  if (a.rows * a.tokens == 0) return;
  check_cached_arrays(a);
  const dim3 blocks(static_cast<unsigned>(a.rows * a.tokens), static_cast<unsigned>(a.heads));
  start_attention<CachedKeys, 1, 4>(stream, "cached_attention", {blocks, a.capacity + a.tokens}, a);
}

}  // namespace switch_ops::cuda
