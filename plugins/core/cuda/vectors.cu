// y[t] = gate[t] * act(n[t] @ weight[e]^T), e = expert[t], for few tokens.
//
//   grid x: parts of the rows of a weight        grid y: groups of at most 16 tokens of one expert
//
//   block    ┌ warp 0: 8 rows, columns 0 ..       ┐
//            │ warp 1: 8 rows, the next columns   │ `split` warps share 8 rows
//            └ ...                                ┘ ──► sums in shared memory ──► epilogue
//
// Memory sets the time, so a warp has 8 steps of weights under way, and begins with them before it
// waits for x where it knows its expert already.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "activate.h"
#include "device.h"
#include "launch.h"
#include "vector_kinds.h"
#include "vector_members.h"

namespace switch_ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 8;   // of a weight, in a warp
constexpr int kBatch = 4;  // steps that are loaded together; two batches are under way
constexpr int kStepBytes = 64;

// --- shared memory ---

struct Shared {
  Members* members;
  int begin = 0, count = 0;  // the members of this pass: as many as there is room for
  float* memory;             // [kFewTokens * 8]
  float* factor;             // [kFewTokens] of the norm
  float* amax;               // [kFewTokens] the largest of a row
  unsigned char* x;          // [members, stride]
  void* sums;                // [2 where gated, warps, kFewTokens, kRows]
  int stride;

  __device__ __forceinline__ int64_t x_row(const VectorProduct& a, int i) const {
    const int token = members->token[begin + i];
    return a.groups.tokens && !a.x_is_sorted ? a.groups.tokens[token] : token;
  }
  __device__ __forceinline__ int64_t y_row(const VectorProduct& a, int i) const {
    const int token = members->token[begin + i];
    return a.groups.tokens && !a.y_is_sorted ? a.groups.tokens[token] : token;
  }
};

__host__ __device__ constexpr int align16(int bytes) { return (bytes + 15) / 16 * 16; }
constexpr int kHeadBytes =
    align16(static_cast<int>(sizeof(Members))) + 4 * (kFewTokens * 8 + 2 * kFewTokens);
constexpr int kSumBytes = kWarps * kFewTokens * kRows * 4;

// 16 more bytes a row keep the banks of neighbouring rows apart.
__host__ __device__ inline int input_stride(int64_t columns, int bytes) {
  return align16(static_cast<int>(columns) * bytes) + 16;
}

__device__ Shared divide(int columns, int input_bytes, int halves) {
  unsigned char* start = ptx::shared_memory();
  auto* floats = reinterpret_cast<float*>(start + align16(static_cast<int>(sizeof(Members))));
  Shared s;
  s.members = reinterpret_cast<Members*>(start);
  s.memory = floats;
  s.factor = floats + kFewTokens * 8;
  s.amax = s.factor + kFewTokens;
  s.sums = start + kHeadBytes;
  s.x = start + kHeadBytes + halves * kSumBytes;
  s.stride = input_stride(columns, input_bytes);
  return s;
}

// --- x ---

// Rows of x as Kind wants them. Ends with a barrier.
template <typename Kind>
__device__ void stage(const VectorProduct& a, const Shared& s) {
  const int count = s.count, columns = static_cast<int>(a.weight.columns);
  const Shares shares(count);
  const auto start = [&](int r) { return s.x_row(a, r) * columns; };
  if (a.norm) {
    reduce_rows(
        shares, count, s.memory, s.factor,
        [&](int r) {
          float sum = 0;
          const int64_t first = start(r);
          for (int i = 4 * shares.thread; i < columns; i += 4 * shares.threads) {
            const float4 v = load4(a.x, a.x_type, first + i);
            sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
          }
          return sum;
        },
        warp_sum, [](float x, float y) { return x + y; });
  }
  const auto normed = [&](int r) {
    const float mean = a.norm ? s.factor[r] / static_cast<float>(columns) : 0;
    return Row{a, start(r), a.norm ? rsqrtf(mean + a.epsilon) : 1};
  };
  if (Kind::kQuantised) {
    reduce_rows(
        shares, count, s.memory, s.amax,
        [&](int r) {
          float most = 1e-30f;
          const Row own = normed(r);
          for (int i = 4 * shares.thread; i < columns; i += 4 * shares.threads) {
            most = fmaxf(most, largest(own.at(i)));
          }
          return most;
        },
        warp_max, [](float x, float y) { return fmaxf(x, y); });
  }
  for (int r = shares.first_row; r < count; r += shares.row_step) {
    const Row own = normed(r);
    const float factor = Kind::kQuantised ? 127.0f / s.amax[r] : 1;
    for (int i = 4 * shares.thread; i < columns; i += 4 * shares.threads) {
      Kind::store4(s.x + r * s.stride, i, own.at(i), factor);
    }
  }
  __syncthreads();
}

// --- weights ---

// One warp's rows of the weight and its part of their columns.
template <typename Kind>
struct Stream8 {
  const unsigned char* row;  // null: there is none
  const float* scale;
  int columns, block, first, last;  // steps

  // Steps at `step` ..: weights, and scales where blocks have them.
  struct Batch {
    uint4 w[kBatch];
    float scale[Kind::kBlocks ? kBatch : 1];
  };

  __device__ int column(int step) const {
    return (4 * step + static_cast<int>(threadIdx.x) % 4) * Kind::kColumns;
  }
  __device__ void load(Batch& batch, int step) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = column(step + i);
      const bool inside = row && step + i < last && at < columns;
      batch.w[i] = make_uint4(0, 0, 0, 0);
      if (inside) {
        batch.w[i] = ptx::load_once(row + (4 * (step + i) + threadIdx.x % 4) * 16);
      }
      if constexpr (Kind::kBlocks) batch.scale[i] = inside ? __ldg(scale + at / block) : 0;
    }
  }
  __device__ void use(const Batch& batch, int step, const Shared& s, Kind& kind) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (step + i >= last) break;
      const int at = column(step + i);
      kind.add(batch.w[i], batch.scale[Kind::kBlocks ? i : 0], s.x, s.stride, s.count, at,
               at < columns);
    }
  }
};

template <typename Kind>
__device__ Stream8<Kind> stream_of(const VectorProduct& a, int expert, int64_t row, int part,
                                   int split) {
  Stream8<Kind> stream;
  const bool exists = row < a.weight.rows && expert >= 0;
  stream.row = exists ? reinterpret_cast<const unsigned char*>(a.weight.row(row, expert)) : nullptr;
  stream.scale = exists ? a.weight.row_scale(row, expert) : nullptr;
  stream.columns = static_cast<int>(a.weight.columns);
  stream.block = a.weight.block ? static_cast<int>(a.weight.block) : stream.columns;
  const int steps = (static_cast<int>(a.weight.row_bytes()) + kStepBytes - 1) / kStepBytes;
  const int each = (steps + split - 1) / split;
  stream.first = part * each;
  stream.last = min(steps, stream.first + each);
  return stream;
}

// --- results ---

// Sum `half` of output `row` (0 .. 7) of the block's row tile `tile`, of member `i`.
template <typename Kind>
__device__ float total(const VectorProduct& a, const Shared& s, int split, int half, int tile,
                       int i, int row, int64_t weight_row) {
  using Sum = typename Kind::Sum;
  const auto* sums =
      static_cast<const Sum*>(s.sums) + (half * kWarps + tile * split) * kFewTokens * kRows;
  Sum sum = 0;
  for (int part = 0; part < split; ++part) {
    sum += sums[(part * kFewTokens + i) * kRows + row];
  }
  float value = static_cast<float>(sum);
  if (Kind::kQuantised) value *= s.amax[i] / 127.0f;
  if (Kind::kQuantised && !Kind::kBlocks) {
    value *= a.weight.row_scale(weight_row, s.members->expert)[0];
  }
  return value;
}

template <typename Kind>
__device__ void finish(const VectorProduct& a, const Shared& s, int split, int64_t first_row) {
  const int tiles = kWarps / split, count = s.count;
  const int64_t outputs = a.outputs();
  for (int at = static_cast<int>(threadIdx.x); at < tiles * count * kRows; at += kThreads) {
    const int row = at % kRows, i = at / kRows % count, tile = at / kRows / count;
    const int64_t output = first_row + tile * kRows + row;
    if (output >= outputs) continue;
    float value = total<Kind>(a, s, split, 0, tile, i, row, output);
    if (a.has_activation) value = activate(a.activation, value);
    if (a.is_gated) value *= total<Kind>(a, s, split, 1, tile, i, row, output + outputs);
    const int64_t y = s.y_row(a, i);
    if (a.gate) value *= a.gate[y];
    const int64_t place = y * outputs + output;
    if (a.accumulate) value += static_cast<float*>(a.y)[place];
    store_value(a.y, a.y_type, place, value);
  }
}

// The block's part of a dropped token's row.
__device__ void write_dropped(const VectorProduct& a, int64_t token, int64_t first_row, int rows) {
  const int64_t outputs = a.outputs();
  auto* y = static_cast<float*>(a.y) + token * outputs;
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += kThreads) {
    const int64_t o = first_row + i;
    if (o >= outputs) continue;
    float value = 0;
    if (a.dropped == Dropped::kPass) {
      value = load_value(a.dropped_x, a.dropped_type, token * outputs + o);
      if (a.gate) value *= a.gate[token];
    }
    y[o] = a.accumulate ? y[o] + value : value;
  }
}

// Both halves of a gated weight, or the one of another, times the members of this pass.
template <typename Kind, typename StreamOf>
__device__ void multiply(const VectorProduct& a, const Shared& s, const StreamOf& stream,
                         typename Stream8<Kind>::Batch& even, typename Stream8<Kind>::Batch& odd) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int half = 0; half <= static_cast<int>(a.is_gated); ++half) {
    const Stream8<Kind> weights = stream(half);
    if (half == 1 || s.begin > 0) {  // else the first ones are under way
      weights.load(even, weights.first);
      weights.load(odd, weights.first + kBatch);
    }
    Kind kind;
    for (int step = weights.first; step < weights.last; step += 2 * kBatch) {
      weights.use(even, step, s, kind);
      weights.load(even, step + 2 * kBatch);
      weights.use(odd, step + kBatch, s, kind);
      weights.load(odd, step + 3 * kBatch);
    }
    kind.store(
        static_cast<typename Kind::Sum*>(s.sums) + (half * kWarps + warp) * kFewTokens * kRows,
        s.count);
  }
}

// `split`: warps that share 8 rows; `room`: rows of x that fit.
template <typename Kind>
__global__ void __launch_bounds__(kThreads, Kind::kBlocksPerProcessor)
    vectors(const VectorProduct a, int split, int room) {
  Shared s = divide(static_cast<int>(a.weight.columns), Kind::kInputBytes, a.is_gated + 1);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, tiles = kWarps / split;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * tiles * kRows;
  const int64_t row = first_row + warp / split * kRows + threadIdx.x % kWarp / 4;

  if (!a.routes_are_ready) ptx::dependency_wait();
  if (warp == 0) {
    const int slot = static_cast<int>(blockIdx.y);
    if (a.groups.tokens)
      find_by_groups(a, slot, s.members);
    else if (a.expert)
      find_by_expert(a, slot, s.members);
    else
      find_in_order(a, slot, s.members);
  }
  __syncthreads();
  const int members = s.members->count, expert = s.members->expert;
  const auto stream = [&](int half) {
    const bool exists = members > 0 && row < a.outputs();
    return stream_of<Kind>(a, exists ? expert : -1, row + half * a.outputs(), warp % split, split);
  };
  typename Stream8<Kind>::Batch even, odd;
  const Stream8<Kind> weights = stream(0);
  weights.load(even, weights.first);
  weights.load(odd, weights.first + kBatch);
  if (a.routes_are_ready) ptx::dependency_wait();
  ptx::dependency_launch();
  if (expert < 0 && a.dropped_x) {
    write_dropped(a, s.members->token[0], first_row, tiles * kRows);
  }
  for (; s.begin < members; s.begin += room) {
    s.count = min(room, members - s.begin);
    stage<Kind>(a, s);
    multiply<Kind>(a, s, stream, even, odd);
    __syncthreads();
    finish<Kind>(a, s, split, first_row);
    // No barrier: the next pass changes nothing that `finish` reads before stage's first one.
  }
}

// --- the host's side ---

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Warps that share 8 rows: more while blocks are too few to keep every processor's memory busy and
// each warp still has 3 steps.
int choose_split(const VectorProduct& a, int64_t groups) {
  const int64_t steps = ceil_div(a.weight.row_bytes(), kStepBytes);
  const int64_t tiles = ceil_div(a.outputs(), kRows) * groups;
  int split = 1;
  while (split < kWarps && steps / (2 * split) >= 3 &&
         tiles * split / kWarps < 4 * current_device().processors) {
    split *= 2;
  }
  return split;
}

template <typename Kind>
void start(const Stream& stream, const VectorProduct& a) {
  const bool sorted = a.groups.tokens != nullptr;
  const int64_t sixteens = ceil_div(a.tokens, kFewTokens);
  const int64_t slots =
      sorted ? sixteens + std::min(a.tokens, a.weight.count) : (a.expert ? a.tokens : sixteens);
  const int64_t stride = input_stride(a.weight.columns, Kind::kInputBytes);
  const int64_t fixed = kHeadBytes + (a.is_gated + 1) * kSumBytes;
  const int64_t room =
      std::min<int64_t>({a.tokens, kFewTokens, (current_device().shared_bytes - fixed) / stride});
  if (room < 1) {
    throw std::invalid_argument("a row of " + std::to_string(a.weight.columns) +
                                " columns does not fit the device's shared memory");
  }
  const int split = choose_split(a, std::min(a.tokens, sorted || a.expert ? a.weight.count : 1));
  Grid grid;
  grid.threads = kThreads;
  grid.blocks = dim3(static_cast<unsigned>(ceil_div(a.outputs(), kRows * (kWarps / split))),
                     static_cast<unsigned>(slots));
  grid.shared_bytes = static_cast<size_t>(fixed + room * stride);
  launch(stream, "product of few tokens", grid, vectors<Kind>, a, split, static_cast<int>(room));
}

}  // namespace

void multiply_vectors(const Stream& stream, const GroupedProduct& a) {
  VectorProduct p;
  p.x = a.x;
  p.x_type = a.x_type;
  p.tokens = a.tokens;
  p.weight = a.weight;
  p.groups = a.groups;
  p.x_is_sorted = a.stage == Stage::kOutput;
  p.y_is_sorted = a.stage == Stage::kHidden;
  p.y = a.y;
  p.y_type = a.y_type;
  p.accumulate = a.accumulate;
  p.has_activation = a.stage == Stage::kHidden;
  p.activation = a.activation;
  p.is_gated = a.is_gated;
  p.gate = a.gate;
  multiply_vectors(stream, p);
}

void multiply_vectors(const Stream& stream, const VectorProduct& a) {
  if (a.tokens == 0 || a.weight.rows == 0) return;
  const bool by_block = a.weight.block != 0;
  switch (a.weight.type) {
    case WeightType::kFloat32: return start<FloatKind<WeightType::kFloat32>>(stream, a);
    case WeightType::kFloat16:
      if (a.row_type() == WeightType::kFloat16) return start<TensorKind<Float16>>(stream, a);
      return start<FloatKind<WeightType::kFloat16>>(stream, a);
    case WeightType::kBFloat16:
      if (a.row_type() == WeightType::kBFloat16) return start<TensorKind<BFloat16>>(stream, a);
      return start<FloatKind<WeightType::kBFloat16>>(stream, a);
    case WeightType::kInt8:
      return by_block ? start<IntegerKind<false, true>>(stream, a)
                      : start<IntegerKind<false, false>>(stream, a);
    case WeightType::kInt4:
      return by_block ? start<IntegerKind<true, true>>(stream, a)
                      : start<IntegerKind<true, false>>(stream, a);
  }
}

}  // namespace switch_ops::cuda
