// sum = x + delta, its norm, and the top-1 routes of that: one kernel, and one more where an expert
// may get more tokens than its capacity.
#include <algorithm>
#include <climits>
#include <string>

#include "device.h"
#include "launch.h"
#include "numbers.h"
#include "reduce.h"

namespace switch_ops::cuda {
namespace {

constexpr int kMostWarps = 32;
// Where exp(logit - most) rounds to 1, the probabilities are equal: a tie.
constexpr float kTie = 0x1p-25f;

// One block:
//
//   x, delta ─► sum ─► normed [kTokens, columns]     as many warps for each token, lane: 4 columns
//                        │ @ classifier^T            a warp: kExperts experts at a time,
//                        ▼                           lane: columns 4 (lane + 32 step) ..
//                      logits [kTokens, experts] ─► expert, gate      a warp for each token
struct Memory {
  float* weight;  // [columns] of the norm
  float* normed;  // [kTokens, columns]
  float* logits;  // [kTokens, experts]
  float* sums;    // [kMostWarps]

  __device__ __forceinline__ Memory(const switch_cuda_router& a, int tokens) {
    weight = reinterpret_cast<float*>(ptx::shared_memory());
    normed = weight + a.columns;
    logits = normed + tokens * a.columns;
    sums = logits + tokens * a.experts;
  }
  static size_t bytes(const switch_cuda_router& a, int64_t tokens) {
    const int64_t floats = (tokens + 1) * a.columns + tokens * a.experts + kMostWarps;
    return static_cast<size_t>(floats) * sizeof(float);
  }
};

__device__ __forceinline__ float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ void store4(float* to, const float4& v) {
  *reinterpret_cast<float4*>(to) = v;
}

// Four values at `index` of an array of `type`, and what it holds then.
template <typename Type>
__device__ __forceinline__ float4 store_halves(void* array, int64_t index, const float4& v,
                                               bool wanted) {
  const uint2 bits = make_uint2(Type::pack(v.x, v.y), Type::pack(v.z, v.w));
  if (wanted) *reinterpret_cast<uint2*>(static_cast<uint16_t*>(array) + index) = bits;
  const float2 low = Type::unpack(bits.x), high = Type::unpack(bits.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
__device__ __forceinline__ float4 store_rounded(void* array, WeightType type, int64_t index,
                                                const float4& v, bool wanted) {
  if (type == WeightType::kBFloat16) return store_halves<BFloat16>(array, index, v, wanted);
  if (type == WeightType::kFloat16) return store_halves<Float16>(array, index, v, wanted);
  if (wanted) store4(static_cast<float*>(array) + index, v);
  return v;
}

// The classifier is a constant: it may be on its way before earlier kernels end. Each block asks
// for a part.
__device__ __forceinline__ void ask_for_classifier(const switch_cuda_router& a) {
  constexpr int64_t kLine = 128 / sizeof(float);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i * kLine < a.experts * a.columns; i += stride) {
    ptx::prefetch(a.classifier + i * kLine);
  }
}

// The rows of the block's tokens; those beyond the last token are 0.
template <int kTokens>
__device__ __forceinline__ void normalise(const switch_cuda_router& a, const Memory& memory) {
  const int threads = static_cast<int>(blockDim.x) / kTokens;  // of one token: whole warps
  const int token = static_cast<int>(threadIdx.x) / threads;
  const int first = 4 * (static_cast<int>(threadIdx.x) % threads);
  const int columns = static_cast<int>(a.columns);
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kTokens + token;
  const bool exists = t < a.batch * a.tokens;
  float* row = memory.normed + token * columns;
  float squares = 0;
  for (int c = first; c < columns; c += 4 * threads) {
    float4 v = make_float4(0, 0, 0, 0);
    if (exists) {
      v = load4(a.x + t * columns + c);
      if (a.delta) {
        const float4 more = load4(a.delta + t * columns + c);
        v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
      }
      if (a.sum) store4(a.sum + t * columns + c, v);
    }
    store4(row + c, v);
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  squares = warp_sum(squares);
  ptx::async_wait<0>();  // memory.weight
  if (threadIdx.x % kWarp == 0) memory.sums[threadIdx.x / kWarp] = squares;
  __syncthreads();
  const int warps = threads / kWarp;
  float total = 0;
  for (int w = 0; w < warps; ++w) total += memory.sums[token * warps + w];
  const float factor = 1 / sqrtf(total / static_cast<float>(columns) + a.epsilon);
  const auto type = static_cast<WeightType>(a.normed_type);
  for (int c = first; c < columns; c += 4 * threads) {
    const float4 v = load4(row + c), w = load4(memory.weight + c);
    const float4 scaled =
        make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w);
    store4(row + c, store_rounded(a.normed, type, t * columns + c, scaled, exists));
  }
  __syncthreads();
}

// 4 columns of kExperts experts at kSteps places, on their way to a lane.
template <int kExperts, int kSteps>
struct Piece {
  float4 w[kSteps][kExperts];

  __device__ __forceinline__ void load(const switch_cuda_router& a, int expert, int step) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int e = 0; e < kExperts; ++e) {
        const int c = 4 * (lane + kWarp * (step + s));
        const bool exists = c < a.columns && expert + e < a.experts;
        w[s][e] =
            exists ? load4(a.classifier + (expert + e) * a.columns + c) : make_float4(0, 0, 0, 0);
      }
    }
  }
};

__device__ __forceinline__ float dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Sums over the warp of kCount values (a power of two): lane gets that of v[lane / (32 / kCount)].
template <int kCount, int kStep = kWarp / 2>
__device__ __forceinline__ float warp_sums(float (&v)[kCount]) {
  if constexpr (kStep == 0) {
    return v[0];
  } else if constexpr (kCount == 1) {
    v[0] += __shfl_xor_sync(kAllLanes, v[0], kStep);
    return warp_sums<1, kStep / 2>(v);
  } else {
    const bool upper = threadIdx.x & kStep;
    float half[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float kept = upper ? v[i + kCount / 2] : v[i];
      const float given = upper ? v[i] : v[i + kCount / 2];
      half[i] = kept + __shfl_xor_sync(kAllLanes, given, kStep);
    }
    return warp_sums<kCount / 2, kStep / 2>(half);
  }
}

// `next` has the first piece of this warp's first experts.
template <int kTokens, int kExperts, int kSteps>
__device__ __forceinline__ void classify(const switch_cuda_router& a, const Memory& memory,
                                         Piece<kExperts, kSteps>& next) {
  constexpr int kCount = kTokens * kExperts;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int own = lane / (kWarp / kCount), own_token = own / kExperts;
  const int stride = static_cast<int>(blockDim.x) / kWarp * kExperts;
  const int columns = static_cast<int>(a.columns), experts = static_cast<int>(a.experts);
  for (int e = static_cast<int>(threadIdx.x) / kWarp * kExperts; e < experts; e += stride) {
    const int own_expert = e + own % kExperts;
    const float bias = a.bias && own_expert < experts ? a.bias[own_expert] : 0;
    float sums[kCount] = {};
    for (int step = 0; step * 4 * kWarp < columns; step += kSteps) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int c = 4 * (lane + kWarp * (step + s));
        if (c >= columns) continue;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          const float4 x = load4(memory.normed + i / kExperts * columns + c);
          sums[i] = dot4(x, next.w[s][i % kExperts], sums[i]);
        }
      }
      const bool ends = (step + kSteps) * 4 * kWarp >= columns;
      next.load(a, ends ? e + stride : e, ends ? 0 : step + kSteps);
    }
    const float logit = warp_sums(sums) + bias;
    if (lane % (kWarp / kCount) == 0 && own_expert < experts) {
      memory.logits[own_token * experts + own_expert] = logit;
    }
  }
  __syncthreads();
}

// Softmax of one token's logits by one warp: the largest probability, the lowest index on ties.
__device__ __forceinline__ void choose(const switch_cuda_router& a, const float* logits,
                                       int64_t t) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, experts = static_cast<int>(a.experts);
  float most = logits[0], total = 0;
  for (int e = lane; e < experts; e += kWarp) most = fmaxf(most, logits[e]);
  most = warp_max(most);
  int best = INT_MAX;
  for (int e = lane; e < experts; e += kWarp) {
    total += expf(logits[e] - most);
    if (most - logits[e] <= kTie) best = min(best, e);
  }
  total = warp_sum(total);
  for (int step = kWarp / 2; step > 0; step /= 2) {
    best = min(best, __shfl_xor_sync(kAllLanes, best, step));
  }
  if (lane) return;
  a.expert[t] = best == INT_MAX ? 0 : best;  // logits that are not numbers
  a.gate[t] = round_to(static_cast<WeightType>(a.normed_type), 1 / total);
}

template <int kTokens, int kExperts, int kSteps, int kThreads>
__global__ void __launch_bounds__(kThreads) route_tokens(const switch_cuda_router a) {
  const Memory memory(a, kTokens);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Piece<kExperts, kSteps> piece;
  piece.load(a, warp * kExperts, 0);
  ask_for_classifier(a);
  for (int c = 4 * static_cast<int>(threadIdx.x); c < a.columns;
       c += 4 * static_cast<int>(blockDim.x)) {
    ptx::async_copy16(memory.weight + c, a.norm + c, true);
  }
  ptx::async_commit();
  ptx::dependency_wait();
  ptx::dependency_launch();
  normalise<kTokens>(a, memory);
  classify<kTokens>(a, memory, piece);
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kTokens + warp;
  if (warp < kTokens && t < a.batch * a.tokens) {
    choose(a, memory.logits + warp * static_cast<int>(a.experts), t);
  }
}

// One warp for a row of the batch, 32 tokens at a time:
//
//   rank[t] = taken[expert[t]] + those of this 32 up to and with t that chose the same one
__global__ void __launch_bounds__(kWarp) drop_tokens(const switch_cuda_router a) {
  auto* taken = reinterpret_cast<int*>(ptx::shared_memory());  // [experts]
  const int lane = static_cast<int>(threadIdx.x), tokens = static_cast<int>(a.tokens);
  for (int e = lane; e < a.experts; e += kWarp) taken[e] = 0;
  __syncwarp();
  ptx::dependency_wait();
  ptx::dependency_launch();
  int32_t* row = a.expert + static_cast<int64_t>(blockIdx.x) * tokens;
  int next = lane < tokens ? row[lane] : -1;
  for (int t = lane; t - lane < tokens; t += kWarp) {
    const int expert = next;
    next = t + kWarp < tokens ? row[t + kWarp] : -1;
    const unsigned same = __match_any_sync(kAllLanes, expert);
    const unsigned upto = kAllLanes >> (kWarp - 1 - lane);
    const int rank = expert < 0 ? 0 : taken[expert] + __popc(same & upto);
    __syncwarp();
    if (expert >= 0 && (same & ~upto) == 0) taken[expert] = rank;
    __syncwarp();
    if (rank > a.capacity) row[t] = -1;
  }
}

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument("SwitchRouter: " + problem);
}

void check_router(const switch_cuda_router& a) {
  const auto shown = [](int64_t v) { return std::to_string(v); };
  require(a.batch >= 0 && a.tokens >= 0 && a.tokens <= INT_MAX &&
              (a.tokens == 0 || a.batch <= INT_MAX / a.tokens),
          "batch " + shown(a.batch) + " and tokens " + shown(a.tokens) +
              ", expected at least 0 of each and fewer than 2^31 in all");
  require(a.columns > 0 && a.columns % 4 == 0,
          "columns is " + shown(a.columns) + ", expected a multiple of 4");
  require(a.experts > 0, "experts is " + shown(a.experts) + ", expected at least 1");
  require(a.capacity >= -1, "capacity is " + shown(a.capacity) + ", expected -1 or more");
  require(a.normed_type >= 0 && a.normed_type <= static_cast<int32_t>(WeightType::kBFloat16),
          "normed_type is " + shown(a.normed_type) + ", expected a float type (0, 1 or 2)");
  const auto limit = static_cast<int64_t>(current_device().shared_bytes / sizeof(float));
  require(
      a.columns < limit && a.experts < limit && Memory::bytes(a, 1) <= limit * sizeof(float),
      "columns is " + shown(a.columns) + " and experts is " + shown(a.experts) +
          ", expected what fits in the shared memory of this device: 2 * columns + experts <= " +
          shown(limit - kMostWarps));
}

void check_pointers(const switch_cuda_router& a) {
  const std::pair<const char*, const void*> all[] = {
      {"x", a.x},           {"norm", a.norm},     {"classifier", a.classifier},
      {"normed", a.normed}, {"expert", a.expert}, {"gate", a.gate}};
  for (const auto& [name, pointer] : all) {
    require(pointer, std::string(name) + " is NULL, expected an array on the device");
  }
  const std::pair<const char*, const void*> vectors[] = {
      {"x", a.x},     {"delta", a.delta},  {"norm", a.norm}, {"classifier", a.classifier},
      {"sum", a.sum}, {"normed", a.normed}};
  for (const auto& [name, pointer] : vectors) {
    require(reinterpret_cast<uintptr_t>(pointer) % 16 == 0,
            std::string(name) + " is not aligned, expected a multiple of 16 bytes");
  }
}

// Whether blocks of `shared` tokens are the better ones. They read the classifier less often; a
// block for each token ends sooner where a device runs all of them at once or reads little.
bool shares_classifier(const switch_cuda_router& a, int64_t shared) {
  constexpr int64_t kLittle = 128 << 10;  // bytes of the second-level cache for each processor
  const Device& device = current_device();
  const int64_t tokens = a.batch * a.tokens;
  const int64_t bytes = a.experts * a.columns * static_cast<int64_t>(sizeof(float));
  return tokens > device.processors && tokens * bytes > device.processors * kLittle &&
         Memory::bytes(a, shared) <= static_cast<size_t>(device.shared_bytes);
}

}  // namespace

void route(const Stream& stream, const switch_cuda_router& a) {
  check_router(a);
  const int64_t tokens = a.batch * a.tokens;
  if (tokens == 0) return;
  check_pointers(a);
  constexpr int kShared = 8;
  if (shares_classifier(a, kShared)) {
    const auto blocks = static_cast<unsigned>((tokens + kShared - 1) / kShared);
    launch(stream, "route", {dim3(blocks), kShared * kWarp, Memory::bytes(a, kShared)},
           route_tokens<kShared, 4, 1, kShared * kWarp>, a);
  } else {
    const auto warps = static_cast<int>(std::clamp<int64_t>(a.experts, 8, kMostWarps));
    launch(stream, "route",
           {dim3(static_cast<unsigned>(tokens)), warps * kWarp, Memory::bytes(a, 1)},
           route_tokens<1, 1, 8, kMostWarps * kWarp>, a);
  }
  if (a.capacity < 0 || a.capacity >= a.tokens) return;
  const auto shared = static_cast<size_t>(a.experts) * sizeof(int);
  launch(stream, "drop_tokens", {dim3(static_cast<unsigned>(a.batch)), kWarp, shared}, drop_tokens,
         a);
}

}  // namespace switch_ops::cuda
