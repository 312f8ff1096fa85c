// Our own threads, for tests and measurements: in a host the operators use the host's.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel.h"

namespace switch_ops {
namespace {

class ThreadPool : public Parallel {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~ThreadPool() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      ++run_;
    }
    woken_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int64_t tasks, void (*task)(void*, int64_t), void* state) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = task, state_ = state, tasks_ = tasks;
      next_.store(0);
      busy_ = static_cast<int>(workers_.size());
      ++run_;
    }
    woken_.notify_all();
    take();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void take() {
    for (int64_t i; (i = next_.fetch_add(1)) < tasks_;) task_(state_, i);
  }

  void work() {
    int64_t seen = 0;
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        woken_.wait(lock, [&] { return run_ != seen; });
        seen = run_;
        if (stopping_) return;
      }
      take();
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable woken_, done_;
  bool stopping_ = false;
  int64_t run_ = 0;
  int busy_ = 0;
  void (*task_)(void*, int64_t) = nullptr;
  void* state_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> workers_;
};

}  // namespace

std::unique_ptr<Parallel> make_thread_pool(int threads) {
  if (threads <= 1) return std::make_unique<Serial>();
  return std::make_unique<ThreadPool>(threads);
}

}  // namespace switch_ops
