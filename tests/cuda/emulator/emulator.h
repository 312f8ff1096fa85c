// Fibers that stand for the threads of a block; see cuda_runtime.h.
#ifndef SWITCH_TESTS_CUDA_EMULATOR_H_
#define SWITCH_TESTS_CUDA_EMULATOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

struct dim3;

namespace emulator {

enum class Order { kForward, kBackward, kShuffled };  // of blocks, and of threads that could go on

struct Settings {
  Order order = Order::kForward;
  int major = 9, minor = 0;  // compute capability that kernels are chosen for
  int processors = 3;        // few, so that persistent kernels take several turns
  int shared_bytes = 227 * 1024;
  bool overlaps = false;  // of kernels that ask for it; results are there after synchronise()
};
Settings& settings();

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Of the thread that runs.
extern Index threadIdx, blockIdx, blockDim, gridDim;

// What the lanes of a warp gave in one exchange.
class Values {
 public:
  static constexpr size_t kBytes = 64;

  template <typename T>
  T of(int lane) const {
    static_assert(sizeof(T) <= kBytes && std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, bytes_[static_cast<size_t>(lane)].data(), sizeof(T));
    return value;
  }
  void set(int lane, const void* value, size_t bytes) {
    if (bytes) std::memcpy(bytes_[static_cast<size_t>(lane)].data(), value, bytes);
  }

 private:
  std::array<std::array<char, kBytes>, 32> bytes_;
};

struct Warp {
  std::array<Values, 2> values;  // of exchanges by turns: nobody is two ahead
  uint32_t arrived = 0;
  uint64_t exchanges = 0;
};

struct Barrier {
  int arrived = 0;
  uint64_t passed = 0;
};

struct Block {
  Index index, threads, blocks;  // blockIdx, blockDim, gridDim
  const std::function<void()>* kernel = nullptr;
  bool may_go_on = true;  // beyond dependency_wait
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  int alive = 0;
  Barrier barrier;                // of all threads that have not ended
  std::array<Barrier, 16> named;  // bar.sync id, count
  std::vector<Warp> warps;
};

// A copy or a product that was begun and may still be under way.
using Deferred = std::function<void()>;

struct Thread {
  Index index;
  Block* block = nullptr;
  int number = 0;
  std::vector<std::vector<Deferred>> groups = std::vector<std::vector<Deferred>>(1);    // cp.async
  std::vector<std::vector<Deferred>> products = std::vector<std::vector<Deferred>>(1);  // wgmma
};

Thread& thread();
inline int lane() { return thread().number % 32; }
inline Warp& warp() { return thread().block->warps[static_cast<size_t>(thread().number / 32)]; }

// Let others go on until `ready()`; throws where nothing ever makes it so.
void wait_until(const std::function<bool()>& ready);

void block_barrier();
void named_barrier(int id, int threads);

// Every lane of the warp gives `bytes` bytes and gets everybody's.
Values exchange(const void* value, size_t bytes);
template <typename T>
Values exchange(const T& value) {
  return exchange(&value, sizeof(T));
}

// All but the last `pending` closed groups of `groups` happen now.
void finish(std::vector<std::vector<Deferred>>& groups, size_t pending);

// False where the launch itself is wrong. Throws std::runtime_error for what a kernel did wrong.
// One that `overlaps` the kernel before it runs up to dependency_wait before that one goes on from
// its own: as early as a device may let it.
bool run_grid(const dim3& blocks, const dim3& threads, size_t shared_bytes,
              const std::function<void()>& kernel, bool overlaps = false);

// All kernels end.
void synchronise();

}  // namespace emulator

#endif  // SWITCH_TESTS_CUDA_EMULATOR_H_
