// How the operators use several threads: somebody else's pool, or our own in tests.
#ifndef SWITCH_CORE_PARALLEL_H_
#define SWITCH_CORE_PARALLEL_H_

#include <cstdint>
#include <memory>
#include <type_traits>

namespace switch_ops {

class Parallel {
 public:
  virtual ~Parallel() = default;

  // Call task(state, i) for every i in [0, tasks), on any threads, in any order; return when all
  // have returned. Tasks throw nothing but std::bad_alloc.
  virtual void run(int64_t tasks, void (*task)(void* state, int64_t i), void* state) = 0;

  // The same for anything that can be called with an index; it is not copied.
  template <typename Task>
  void each(int64_t tasks, Task&& task) {
    using Callable = std::remove_reference_t<Task>;
    if (tasks == 1) {
      task(int64_t{0});
      return;
    }
    run(
        tasks, [](void* state, int64_t i) { (*static_cast<Callable*>(state))(i); },
        const_cast<std::remove_const_t<Callable>*>(&task));
  }
};

// Everything on the calling thread.
class Serial : public Parallel {
 public:
  void run(int64_t tasks, void (*task)(void*, int64_t), void* state) override {
    for (int64_t i = 0; i < tasks; ++i) task(state, i);
  }
};

// A pool of its own: `threads` - 1 workers and the caller. One run at a time.
std::unique_ptr<Parallel> make_thread_pool(int threads);

}  // namespace switch_ops

#endif  // SWITCH_CORE_PARALLEL_H_
