#include "emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "cuda_runtime.h"

namespace emulator {

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStack = 128 * 1024;

// Stacks are used again: making one costs more than most threads do.
class Stacks {
 public:
  std::unique_ptr<char[]> take() {
    if (free_.empty()) return std::unique_ptr<char[]>(new char[kStack]);  // most is never touched
    auto stack = std::move(free_.back());
    free_.pop_back();
    return stack;
  }
  void give_back(std::unique_ptr<char[]> stack) { free_.push_back(std::move(stack)); }

 private:
  std::vector<std::unique_ptr<char[]>> free_;
} stacks;

struct Fiber {
  Thread thread;
  std::unique_ptr<char[]> stack = stacks.take();
  jmp_buf place;
  bool started = false, ended = false;

  ~Fiber() { stacks.give_back(std::move(stack)); }
};

struct Scheduler {
  Fiber* current = nullptr;
  jmp_buf place;
  uint64_t progress = 0;  // waits that ended, and threads that did
  std::mt19937 random{1};
  std::string error;
} scheduler;

// The body of every fiber. It never returns.
void enter() {
  try {
    (*scheduler.current->thread.block->kernel)();
  } catch (const std::exception& error) {
    if (scheduler.error.empty()) scheduler.error = error.what();
  }
  Fiber& self = *scheduler.current;
  self.ended = true;
  ++scheduler.progress;
  --self.thread.block->alive;
  _longjmp(scheduler.place, 1);
}

void resume(Fiber& fiber) {
  scheduler.current = &fiber;
  const Block& block = *fiber.thread.block;
  threadIdx = fiber.thread.index;
  blockIdx = block.index;
  blockDim = block.threads;
  gridDim = block.blocks;
  if (_setjmp(scheduler.place)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

template <typename T>
void arrange(std::vector<T>& items) {
  if (settings().order == Order::kBackward) std::reverse(items.begin(), items.end());
  if (settings().order == Order::kShuffled) {
    std::shuffle(items.begin(), items.end(), scheduler.random);
  }
}

// Shared memory that starts as garbage and ends at a page that nothing may touch.
class Shared {
 public:
  explicit Shared(size_t bytes) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    room_ = (bytes + page_ - 1) / page_ * page_;
    memory_ = static_cast<unsigned char*>(
        mmap(nullptr, room_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    std::memset(memory_, 0xff, room_);
    mprotect(memory_ + room_, page_, PROT_NONE);
    // The kernels ask for 1024-byte alignment, so a size that is no multiple leaves a gap.
    start_ = memory_ + (room_ - bytes) / 1024 * 1024;
  }
  ~Shared() { munmap(memory_, room_ + page_); }
  unsigned char* start() const { return start_; }

 private:
  size_t page_, room_;
  unsigned char *memory_, *start_;
};

// One block with its threads.
class Run {
 public:
  Run(const Block& block, unsigned threads) : block_(block), shared_(block.shared_bytes) {
    block_.shared = shared_.start();
    block_.alive = static_cast<int>(threads);
    block_.warps.resize(threads / 32);
    for (unsigned i = 0; i < threads; ++i) {
      fibers_.push_back(std::make_unique<Fiber>());
      Thread& thread = fibers_.back()->thread;
      thread.index.x = i;
      thread.block = &block_;
      thread.number = static_cast<int>(i);
      waiting_.push_back(fibers_.back().get());
    }
    arrange(waiting_);
  }

  // Threads one after another until all have ended, or, before the block may go on beyond
  // dependency_wait, until nothing moves.
  void go(bool beyond) {
    block_.may_go_on = beyond;
    while (!waiting_.empty()) {
      const uint64_t before = scheduler.progress;
      for (Fiber* fiber : waiting_) resume(*fiber);
      if (!scheduler.error.empty()) throw std::runtime_error(std::exchange(scheduler.error, ""));
      waiting_.erase(
          std::remove_if(waiting_.begin(), waiting_.end(), [](const Fiber* f) { return f->ended; }),
          waiting_.end());
      if (scheduler.progress != before) continue;
      if (!beyond) return;
      throw std::runtime_error("emulator: " + std::to_string(waiting_.size()) + " of " +
                               std::to_string(fibers_.size()) + " threads wait for ever");
    }
  }

 private:
  Block block_;
  Shared shared_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> waiting_;
};

// A grid whose blocks have come as far as they may while the grid before it was still to do.
struct Pending {
  std::function<void()> kernel;
  std::vector<std::unique_ptr<Run>> runs;
};
std::unique_ptr<Pending> pending;

// More threads than this at once take too much memory: such a grid just runs.
constexpr size_t kMostPending = 24 * 1024;

}  // namespace

Settings& settings() {
  static Settings current;
  return current;
}

Thread& thread() { return scheduler.current->thread; }

void wait_until(const std::function<bool()>& ready) {
  while (!ready()) {
    Fiber& self = *scheduler.current;
    if (!_setjmp(self.place)) _longjmp(scheduler.place, 1);
  }
  ++scheduler.progress;
}

namespace {

void arrive(Barrier& barrier, const std::function<int()>& expected) {
  const uint64_t mine = barrier.passed;
  ++barrier.arrived;
  wait_until([&] {
    if (barrier.passed == mine && barrier.arrived >= expected()) {
      barrier.arrived = 0;
      ++barrier.passed;
    }
    return barrier.passed != mine;
  });
}

}  // namespace

void block_barrier() {
  Block& block = *thread().block;
  arrive(block.barrier, [&] { return block.alive; });
}

void named_barrier(int id, int threads) {
  arrive(thread().block->named[static_cast<size_t>(id)], [=] { return threads; });
}

Values exchange(const void* value, size_t bytes) {
  Warp& own = warp();
  const uint64_t mine = own.exchanges;
  own.values[mine % 2].set(lane(), value, bytes);
  own.arrived |= 1u << lane();
  if (own.arrived == 0xffffffffu) {
    own.arrived = 0;
    ++own.exchanges;
  }
  wait_until([&] { return own.exchanges != mine; });
  return own.values[mine % 2];
}

void finish(std::vector<std::vector<Deferred>>& groups, size_t pending) {
  while (groups.size() > pending + 1) {  // the last one is still open
    for (const Deferred& each : groups.front()) each();
    groups.erase(groups.begin());
  }
}

void synchronise() {
  const auto last = std::move(pending);
  if (!last) return;
  for (const auto& run : last->runs) run->go(true);
}

bool run_grid(const dim3& blocks, const dim3& threads, size_t shared_bytes,
              const std::function<void()>& kernel, bool overlaps) {
  const unsigned count = threads.x * threads.y * threads.z;
  if (count == 0 || count > 1024 || count % 32 || threads.x != count || blocks.x == 0 ||
      blocks.y == 0 || blocks.z == 0 || blocks.y > 65535 || blocks.z > 65535 ||
      shared_bytes > static_cast<size_t>(settings().shared_bytes)) {
    return false;
  }
  std::vector<Index> order;
  for (unsigned z = 0; z < blocks.z; ++z) {
    for (unsigned y = 0; y < blocks.y; ++y) {
      for (unsigned x = 0; x < blocks.x; ++x) order.push_back({x, y, z});
    }
  }
  arrange(order);
  auto grid = std::make_unique<Pending>();
  grid->kernel = kernel;
  Block block;
  block.threads = {threads.x, threads.y, threads.z};
  block.blocks = {blocks.x, blocks.y, blocks.z};
  block.shared_bytes = shared_bytes;
  block.kernel = &grid->kernel;
  if (!overlaps || !settings().overlaps || order.size() * count > kMostPending) {
    synchronise();
    for (const Index& index : order) {
      block.index = index;
      Run(block, count).go(true);
    }
    return true;
  }
  for (const Index& index : order) {
    block.index = index;
    grid->runs.push_back(std::make_unique<Run>(block, count));
    grid->runs.back()->go(false);
  }
  synchronise();
  pending = std::move(grid);
  return true;
}

}  // namespace emulator

namespace {

struct Allocation {
  void* start;
  size_t bytes;
};
std::unordered_map<void*, Allocation> allocations;

}  // namespace

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulator::Settings& s = emulator::settings();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = s.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = s.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = s.processors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = s.shared_bytes; break;
  }
  return cudaSuccess;
}

// Ends at a page that nothing may touch, as exactly as 16-byte alignment allows; starts as 0xff.
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t rounded = (bytes + 15) / 16 * 16;
  const size_t room = (rounded + page - 1) / page * page;
  void* start =
      mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return cudaErrorMemoryAllocation;
  mprotect(static_cast<char*>(start) + room, page, PROT_NONE);
  std::memset(start, 0xff, room);
  *pointer = static_cast<char*>(start) + room - rounded;
  allocations[*pointer] = {start, room + page};
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  try {
    emulator::synchronise();
  } catch (const std::exception& error) {  // who frees it may not throw
    std::fprintf(stderr, "%s\n", error.what());
    std::abort();
  }
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) return pointer ? cudaErrorInvalidValue : cudaSuccess;
  munmap(found->second.start, found->second.bytes);
  allocations.erase(found);
  return cudaSuccess;
}
