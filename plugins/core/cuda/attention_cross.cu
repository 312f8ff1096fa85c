// SwitchCrossAttention: the keys of a source, which all its rows read.
#include "attention.h"
#include "device.h"

namespace switch_ops::cuda {
namespace {

// The queries of a source are rows / batch * tokens lines of q, one after another; a block has
// kQueries of them and one head:
//
//   block x    0            1            ..  parts - 1   | parts        ..
//   source     0            0            ..  0           | 1
//   queries    0 .. 3       4 .. 7       ..  to the last | 0 .. 3
template <typename T, int kQueries>
struct CrossKeys {
  using Type = T;
  using Arguments = switch_cuda_cross_attention;

  const Arguments& a;
  int head, at, lines, first;  // lines of the source, and the block's first one
  int64_t source;
  int step;  // bytes from one key to the next
  const char *keys, *values;
  const int64_t* mask;

  __device__ __forceinline__ CrossKeys(const Arguments& a, int at) : a(a), at(at) {
    const auto rows = static_cast<unsigned>(a.rows), batch = static_cast<unsigned>(a.batch);
    head = static_cast<int>(blockIdx.y);
    lines = static_cast<int>(rows / batch) * static_cast<int>(a.tokens);
    const unsigned parts = gridDim.x / batch;
    source = blockIdx.x / parts, first = static_cast<int>(blockIdx.x % parts) * kQueries;
    step = static_cast<int>(a.size) * Eight<Type>::kBytes;
    const int64_t start = (source * a.heads + head) * a.source * a.size + at;
    keys = Eight<Type>::at(a.key, start), values = Eight<Type>::at(a.value, start);
    mask = a.mask + source * a.source;
  }

  __device__ __forceinline__ int count() const { return static_cast<int>(a.source); }
  __device__ __forceinline__ int queries() const { return min(kQueries, lines - first); }
  __device__ __forceinline__ const char* query(int i) const {
    return Eight<Type>::at(a.q, output(i) + at);
  }
  __device__ __forceinline__ int64_t output(int i) const {
    return ((source * lines + first + i) * a.heads + head) * a.size;
  }
  __device__ __forceinline__ void load(int j, Eight<Type>& k, Eight<Type>& v) const {
    const int64_t by = static_cast<int64_t>(j) * step;
    k.load(keys + by), v.load(values + by);
  }
  __device__ __forceinline__ float extra(int j) const { return mask[j] ? 1.0f : 0.0f; }
  // A row of which no key is allowed has equal scores, the lowest that there are.
  static __device__ __forceinline__ float score(float product, float extra) {
    return extra != 0 ? product : -FLT_MAX;
  }
  __device__ __forceinline__ void end() const {}
};

constexpr int kShared = 4;  // queries of a block that shares the reading of its keys
template <typename Type>
using SingleKeys = CrossKeys<Type, 1>;
template <typename Type>
using SharedKeys = CrossKeys<Type, kShared>;

void check_cross(const switch_cuda_cross_attention& a) {
  const AttentionChecks checks("SwitchCrossAttention");
  checks.shape(a.rows, a.tokens, a.heads, a.size);
  checks.type(a.type);
  checks.at_least("batch", a.batch, a.rows > 0 ? 1 : 0);
  checks.require(a.rows == 0 || a.rows % a.batch == 0, "rows is " + std::to_string(a.rows) +
                                                           ", expected a multiple of batch, " +
                                                           std::to_string(a.batch));
  checks.at_least("source", a.source, 1);
  if (a.rows * a.tokens == 0) return;
  checks.array("q", a.q), checks.array("key", a.key), checks.array("value", a.value);
  checks.array("y", a.y), checks.require(a.mask, "mask is NULL, expected an array on the device");
}

}  // namespace

void cross_attention(const Stream& stream, const switch_cuda_cross_attention& a) {
  check_cross(a);
  if (a.rows * a.tokens == 0) return;
  const char* what = "cross_attention";
  const int64_t lines = a.rows / a.batch * a.tokens;
  const auto heads = static_cast<unsigned>(a.heads);
  // Sharing saves reading; a block for each query ends sooner where there are processors for all.
  const bool shares = lines > 1 && a.rows * a.tokens * a.heads > 2 * current_device().processors;
  if (shares) {
    const int64_t parts = (lines + kShared - 1) / kShared;
    const dim3 blocks(static_cast<unsigned>(a.batch * parts), heads);
    start_attention<SharedKeys, kShared, 2>(stream, what, {blocks, a.source}, a);
  } else {
    const dim3 blocks(static_cast<unsigned>(a.batch * lines), heads);
    start_attention<SingleKeys, 1, 4>(stream, what, {blocks, a.source}, a);
  }
}

}  // namespace switch_ops::cuda
