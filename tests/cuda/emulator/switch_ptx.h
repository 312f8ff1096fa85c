// plugins/core/cuda/device/switch_ptx.h in plain C++, written from the PTX manual's descriptions.
#ifndef SWITCH_TESTS_CUDA_PTX_H_
#define SWITCH_TESTS_CUDA_PTX_H_

#include <cuda_runtime.h>

#include <cmath>
#include <stdexcept>

namespace switch_ops::ptx {

inline unsigned char* shared_memory() { return emulator::thread().block->shared; }

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - shared_memory());
}

// --- numbers ---

inline uint32_t bf16_bits(float v) {
  const uint32_t bits = __float_as_uint(v);
  if (std::isnan(v)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
}
inline uint32_t f16_bits(float v) {
  const _Float16 half = static_cast<_Float16>(v);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
inline uint32_t pack_bf16(float low, float high) { return bf16_bits(high) << 16 | bf16_bits(low); }
inline uint32_t pack_f16(float low, float high) { return f16_bits(high) << 16 | f16_bits(low); }
inline float f16_to_float(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}
inline int32_t byte_of(uint32_t word, int i) { return static_cast<int8_t>(word >> 8 * i); }
inline int32_t dot4(uint32_t a, uint32_t b, int32_t c) {
  for (int i = 0; i < 4; ++i) c += byte_of(a, i) * byte_of(b, i);
  return c;
}

inline uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t which) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t from = which >> 4 * i & 7;
    result |= static_cast<uint32_t>(both >> 8 * from & 0xff) << 8 * i;
  }
  return result;
}

// --- memory ---

inline void check_aligned(const void* pointer, const char* what) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16) {
    throw std::runtime_error(std::string(what) + " of an address that is no multiple of 16");
  }
}
inline uint4 load_once(const void* pointer) {
  check_aligned(pointer, "load_once");
  uint4 v;
  std::memcpy(&v, pointer, 16);
  return v;
}
// Reads, so that a wrong address shows; on a device it would not.
inline void prefetch(const void* pointer) {
  static_cast<void>(*static_cast<const volatile char*>(pointer));
}
inline void async_copy16(void* to, const void* from, bool valid) {
  check_aligned(to, "async_copy16");
  if (valid) check_aligned(from, "async_copy16");
  emulator::thread().groups.back().push_back([=] {
    if (valid)
      std::memcpy(to, from, 16);
    else
      std::memset(to, 0, 16);
  });
}
inline void async_copy4(void* to, const void* from, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % 4 || (valid && reinterpret_cast<uintptr_t>(from) % 4)) {
    throw std::runtime_error("async_copy4 of an address that is no multiple of 4");
  }
  emulator::thread().groups.back().push_back([=] {
    if (valid)
      std::memcpy(to, from, 4);
    else
      std::memset(to, 0, 4);
  });
}
inline void async_commit() { emulator::thread().groups.emplace_back(); }
template <int kPending>
void async_wait() {
  emulator::finish(emulator::thread().groups, kPending);
}

inline void dependency_wait() {
  emulator::wait_until([] { return emulator::thread().block->may_go_on; });
}
inline void dependency_launch() {}

// --- tensor cores ---

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  check_aligned(row, "load_matrices");
  const auto rows = emulator::exchange(row);
  const int g = emulator::lane() / 4, c = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&r[i], static_cast<const char*>(rows.of<const void*>(8 * i + g)) + 4 * c, 4);
  }
  __syncwarp();
}

struct Fragments {
  uint32_t a[4], b[2];
};

// d += a @ b^T; `dot` of two words is the sum of products of their values.
template <typename D, typename Dot>
void multiply(D (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Dot& dot) {
  Fragments own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  const auto all = emulator::exchange(own);
  const int g = emulator::lane() / 4, c = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int low_or_high = i / 2, column = 2 * c + i % 2;  // row g or g + 8
    for (int half = 0; half < 2; ++half) {
      for (int k = 0; k < 4; ++k) {
        const uint32_t left = all.of<Fragments>(4 * g + k).a[low_or_high + 2 * half];
        const uint32_t right = all.of<Fragments>(4 * column + k).b[half];
        d[i] += dot(left, right);
      }
    }
  }
}

inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply(d, a, b, [](uint32_t x, uint32_t y) {
    return __uint_as_float(x << 16) * __uint_as_float(y << 16) +
           __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
  });
}
inline void multiply_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply(d, a, b, [](uint32_t x, uint32_t y) {
    return f16_to_float(static_cast<uint16_t>(x)) * f16_to_float(static_cast<uint16_t>(y)) +
           f16_to_float(static_cast<uint16_t>(x >> 16)) *
               f16_to_float(static_cast<uint16_t>(y >> 16));
  });
}
inline void multiply_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply(d, a, b, [](uint32_t x, uint32_t y) { return dot4(x, y, 0); });
}

}  // namespace switch_ops::ptx

#endif  // SWITCH_TESTS_CUDA_PTX_H_
