// The part of CUDA that our kernels use, in plain C++: they run on a machine without a GPU.
//
// Every CUDA thread is a fiber on the calling thread. A fiber runs until it has to wait (for a
// barrier, a warp, a copy); then another one goes on, in an order that `emulator::Settings`
// chooses: code that works only in one order has a barrier too few. What is wrong beyond that shows
// as well: memory starts as garbage, device arrays end at a page that nothing may touch, copies
// arrive as late as they may, threads that wait for ever are an error.
#ifndef SWITCH_TESTS_CUDA_RUNTIME_H_
#define SWITCH_TESTS_CUDA_RUNTIME_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using emulator::blockDim;
using emulator::blockIdx;
using emulator::gridDim;
using emulator::threadIdx;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

inline float __uint_as_float(uint32_t v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}
inline uint32_t __float_as_uint(float v) {
  uint32_t u;
  std::memcpy(&u, &v, 4);
  return u;
}
inline float __int2float_rn(int v) { return static_cast<float>(v); }
inline int __float2int_rn(float v) { return static_cast<int>(std::nearbyintf(v)); }
inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <typename T>
T __ldcg(const T* pointer) {
  return *pointer;
}
template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// --- threads ---

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::exchange(nullptr, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned, T v, int lane) {
  return emulator::exchange(v).template of<T>(lane & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return emulator::exchange(v).template of<T>(emulator::lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T v, unsigned by) {
  const int from = emulator::lane() - static_cast<int>(by);
  return emulator::exchange(v).template of<T>(from < 0 ? emulator::lane() : from);
}
template <typename T>
T __shfl_down_sync(unsigned, T v, unsigned by) {
  const int from = emulator::lane() + static_cast<int>(by);
  return emulator::exchange(v).template of<T>(from > 31 ? emulator::lane() : from);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto values = emulator::exchange(predicate != 0);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(values.of<bool>(i)) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned, T v) {
  const auto values = emulator::exchange(v);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(values.template of<T>(i) == v) << i;
  return bits;
}

// --- the host's side ---

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout,
};
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
using cudaStream_t = void*;

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t) { return "error of the emulator"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() {
  emulator::synchronise();
  return cudaSuccess;
}
// A device for each capability: what is known of one is asked once.
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulator::settings().major;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  emulator::synchronise();
  if (bytes) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  emulator::synchronise();
  if (bytes) std::memset(to, value, bytes);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= emulator::settings().shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const std::tuple<std::decay_t<Params>...> own(std::forward<Args>(args)...);
  const auto run = [=] { std::apply(kernel, own); };
  const bool overlaps = config->numAttrs > 0;
  return emulator::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes, run,
                            overlaps)
             ? cudaSuccess
             : cudaErrorInvalidValue;
}

#endif  // SWITCH_TESTS_CUDA_RUNTIME_H_
