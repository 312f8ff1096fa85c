// plugins/core/cuda/device/switch_wgmma.h in plain C++, written from the PTX manual's descriptions.
//
// Copies and products happen when somebody waits for them, not before.
#ifndef SWITCH_TESTS_CUDA_PTX_WGMMA_H_
#define SWITCH_TESTS_CUDA_PTX_WGMMA_H_

#include <switch_ptx.h>

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_map>

namespace switch_ops::ptx {

namespace emulated {

inline void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

// What a thread has to do before its next product.
struct Duties {
  bool proxy_fence = true;     // after what it waited for became visible to it
  bool register_fence = true;  // after it may have touched its sums
};
inline Duties& duties() {
  static std::unordered_map<const emulator::Thread*, Duties> all;
  return all[&emulator::thread()];
}

// The 64 bits of an mbarrier object; shared memory starts as 0xff.
struct Mbarrier {
  static constexpr uint16_t kMark = 0x3b3b;
  uint16_t mark, phase, expected, pending;

  static Mbarrier load(const uint64_t* object) {
    Mbarrier b;
    std::memcpy(&b, object, sizeof b);
    require(b.mark == kMark, "an mbarrier that was not initialised");
    return b;
  }
  void store(uint64_t* object) const { std::memcpy(object, this, sizeof *this); }
  bool has_ended(uint32_t parity) const { return (phase & 1u) != parity; }
};
static_assert(sizeof(Mbarrier) == 8);

// Copies whose arrival at a barrier is still to come.
inline std::vector<std::vector<emulator::Deferred>>& in_flight(const uint64_t* object) {
  static std::unordered_map<const uint64_t*, std::vector<std::vector<emulator::Deferred>>> all;
  return all[object];
}

}  // namespace emulated

inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  emulated::require(shared_address(barrier) % 8 == 0, "mbarrier_init of a misaligned address");
  emulated::require(arrivals > 0 && arrivals < 0xffff, "mbarrier_init with a wrong count");
  const auto count = static_cast<uint16_t>(arrivals);
  emulated::Mbarrier{emulated::Mbarrier::kMark, 0, count, count}.store(barrier);
  emulated::in_flight(barrier).clear();
}

inline void mbarrier_arrive(uint64_t* barrier) {
  auto b = emulated::Mbarrier::load(barrier);
  if (--b.pending == 0) {
    b.pending = b.expected;
    ++b.phase;
  }
  b.store(barrier);
}

inline void mbarrier_arrive_copies(uint64_t* barrier) {
  emulated::Mbarrier::load(barrier);
  std::vector<emulator::Deferred> copies;
  auto& groups = emulator::thread().groups;
  for (auto& group : groups) copies.insert(copies.end(), group.begin(), group.end());
  groups.assign(1, {});
  emulated::in_flight(barrier).push_back(copies);
}

inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  emulator::wait_until([=] {
    if (emulated::Mbarrier::load(barrier).has_ended(parity)) return true;
    auto arrivals = std::move(emulated::in_flight(barrier));
    emulated::in_flight(barrier).clear();
    if (emulator::settings().order != emulator::Order::kForward) {
      std::reverse(arrivals.begin(), arrivals.end());
    }
    for (const auto& copies : arrivals) {
      for (const auto& copy : copies) copy();
      mbarrier_arrive(barrier);
    }
    return emulated::Mbarrier::load(barrier).has_ended(parity);
  });
  emulated::duties().proxy_fence = true;
}

inline void async_proxy_fence() { emulated::duties().proxy_fence = false; }

template <int kRegisters>
void keep_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}

// --- products of a warpgroup ---

inline void wgmma_fence() {
  __syncwarp();
  emulated::duties().register_fence = false;
}
inline void wgmma_commit() {
  __syncwarp();
  emulator::thread().products.emplace_back();
}
template <int kPending>
void wgmma_wait() {
  emulator::finish(emulator::thread().products, kPending);
  emulated::duties().register_fence = true;
  __syncwarp();
}
template <int kCount>
void wgmma_settle(float (&)[kCount]) {}

namespace emulated {

// A K-major matrix with 128-byte swizzle: "Matrix Descriptor Format", "Shared Memory Matrix
// Layout". Its rows lie in patterns of 8 rows of 128 bytes, each of which starts at a multiple of
// 1024.
class Matrix {
 public:
  explicit Matrix(uint64_t descriptor)
      : memory_(shared_memory()),
        bytes_(emulator::thread().block->shared_bytes),
        start_(field(descriptor, 0, 14) << 4),
        stride_(field(descriptor, 32, 14) << 4) {
    require(field(descriptor, 62, 2) == 1, "a matrix without 128-byte swizzle");
    require(field(descriptor, 14, 2) == 0 && field(descriptor, 30, 2) == 0 &&
                field(descriptor, 46, 3) == 0 && field(descriptor, 52, 10) == 0,
            "reserved bits of a matrix descriptor");
    require(field(descriptor, 49, 3) == 0, "a base offset, where patterns start at 1024 bytes");
    require(start_ % 1024 < 128, "a matrix that starts within a pattern");
    require(stride_ % 1024 == 0, "patterns that start at no multiple of 1024 bytes");
  }

  uint16_t bits(unsigned row, unsigned column) const {
    const size_t plain = start_ + row / 8 * stride_ + row % 8 * 128 + column * 2;
    const size_t address = plain ^ ((plain >> 7 & 7) << 4);  // bits 7 to 9 on bits 4 to 6
    require(address + 2 <= bytes_, "a matrix beyond shared memory");
    uint16_t value;
    std::memcpy(&value, memory_ + address, sizeof value);
    return value;
  }

 private:
  static size_t field(uint64_t descriptor, int first, int bits) {
    return static_cast<size_t>(descriptor >> first & ((uint64_t{1} << bits) - 1));
  }

  const unsigned char* memory_;
  size_t bytes_, start_, stride_;
};

template <int kCount, typename ToFloat>
void wgmma(float (&d)[kCount], uint64_t a, uint64_t b, bool add, const ToFloat& to_float) {
  constexpr int kColumns = 16;
  require(!duties().proxy_fence, "wgmma of what other threads wrote, without a proxy fence");
  require(!duties().register_fence, "wgmma without wgmma_fence");
  struct Descriptors {
    uint64_t a, b;
  };
  const auto first = emulator::exchange(Descriptors{a, b}).template of<Descriptors>(0);
  require(first.a == a && first.b == b, "lanes with different descriptors");
  if (!add) std::fill(d, d + kCount, std::numeric_limits<float>::quiet_NaN());
  const unsigned number = static_cast<unsigned>(emulator::thread().number);
  const unsigned row = number / 32 % 4 * 16 + number % 32 / 4, column = number % 4 * 2;
  const Matrix left(a), right(b);
  emulator::thread().products.back().push_back([=, &d] {
    float x[2][kColumns], w[kColumns];
    for (unsigned k = 0; k < kColumns; ++k) {
      for (unsigned i = 0; i < 2; ++i) x[i][k] = to_float(left.bits(row + 8 * i, k));
    }
    for (unsigned j = 0; j < kCount / 2; ++j) {  // columns of d: two of every eight
      for (unsigned k = 0; k < kColumns; ++k)
        w[k] = to_float(right.bits(j / 2 * 8 + column + j % 2, k));
      for (unsigned i = 0; i < 2; ++i) {
        float sum = 0;
        for (unsigned k = 0; k < kColumns; ++k) sum += x[i][k] * w[k];
        float& value = d[j / 2 * 4 + 2 * i + j % 2];
        value = add ? value + sum : sum;
      }
    }
  });
}

}  // namespace emulated

template <int kCount>
void wgmma_bf16(float (&d)[kCount], uint64_t a, uint64_t b, bool add) {
  emulated::wgmma(d, a, b, add,
                  [](uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); });
}
template <int kCount>
void wgmma_f16(float (&d)[kCount], uint64_t a, uint64_t b, bool add) {
  emulated::wgmma(d, a, b, add, [](uint16_t bits) { return f16_to_float(bits); });
}

}  // namespace switch_ops::ptx

#endif  // SWITCH_TESTS_CUDA_PTX_WGMMA_H_
