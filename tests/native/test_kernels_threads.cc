// Our own threads, and several callers at once, each with a pool of its own.
#include <atomic>
#include <thread>

#include "kernel_cases.h"
#include "switch_ops.h"

using namespace switch_tests;
namespace reference = switch_ops::reference;

namespace {

void every_task_runs_once() {
  for (int threads : {1, 2, 3, 8}) {
    const auto pool = switch_ops::make_thread_pool(threads);
    for (int64_t tasks : {0, 1, 2, 7, 100, 5000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool->each(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& run : runs) expect(run == 1, "a task ran more or less than once");
    }
  }
}

// What tasks write is there for the caller, and what the caller writes for the next tasks.
void results_of_tasks_are_seen() {
  const auto pool = switch_ops::make_thread_pool(4);
  std::vector<int64_t> values(64);
  for (int64_t round = 0; round < (kSanitized ? 200 : 2000); ++round) {
    pool->each(64, [&](int64_t i) { values[static_cast<size_t>(i)] += i; });
    for (size_t i = 0; i < values.size(); ++i) {
      expect(values[i] == (round + 1) * static_cast<int64_t>(i), "a value is not the last one");
    }
  }
}

void pools_that_are_never_used_end() {
  for (int i = 0; i < 20; ++i) switch_ops::make_thread_pool(4);
}

// What one caller computes, with sizes of its own.
class Caller {
 public:
  Caller(uint64_t seed, const Format& format) : random_(seed) {
    const auto size = static_cast<int64_t>(seed);
    columns_ = 64 + 2 * size;
    tokens_ = 3 + size;
    wi_ = random_stack(random_, format, {40, columns_, 3}, format.quantised());
    wo_ = random_stack(random_, format, {columns_, 40, 3}, format.quantised());
    x_ = format.quantised() ? random_.whole_rows(tokens_, columns_)
                            : random_.normals(tokens_ * columns_);
    gate_ = random_.normals(tokens_);
    expert_ = Array<int32_t>(tokens_);
    for (int32_t& e : expert_) e = static_cast<int32_t>(random_.between(-1, 2));
    qkv_ = random_.normals(tokens_ * 3 * 16, 0.5f);
    bias_ = random_.normals(7 * 2);
    mask_ = Array<int64_t>(tokens_);
    std::fill(mask_.begin(), mask_.end(), 1);
    moe_expected_ = reference::moe(moe(nullptr));
    linear_expected_ = reference::linear(x_.data(), tokens_, wi_.weight.slice(1));
    self_expected_ = reference::self_attention(self(nullptr));
    cross_expected_ = reference::cross_attention(cross(nullptr));
  }

  void run(const Context& context) const {
    Array<float> y(tokens_ * columns_), hidden(tokens_ * 40), mixed(tokens_ * 16);
    switch_ops::moe(context, moe(y.data()));
    expect_near(y, moe_expected_, kTolerance, "moe");
    switch_ops::linear(context, x_.data(), tokens_, wi_.weight.slice(1), hidden.data());
    expect_near(hidden, linear_expected_, kTolerance, "linear");
    switch_ops::self_attention(context, self(mixed.data()));
    expect_near(mixed, self_expected_, kTolerance, "self attention");
    switch_ops::cross_attention(context, cross(mixed.data()));
    expect_near(mixed, cross_expected_, kTolerance, "cross attention");
  }

 private:
  switch_ops::Moe moe(float* y) const {
    return {x_.data(),
            tokens_,
            expert_.data(),
            gate_.data(),
            wi_.weight,
            wo_.weight,
            switch_ops::Activation::kRelu,
            switch_ops::Dropped::kPass,
            y};
  }
  switch_ops::SelfAttention self(float* y) const {
    return {qkv_.data(), mask_.data(), bias_.data(), 1, tokens_, 2, 8, 3, y};
  }
  switch_ops::CrossAttention cross(float* y) const {
    const float* from = qkv_.data();
    return {from,
            from + tokens_ * 16,
            from + 2 * tokens_ * 16,
            mask_.data(),
            tokens_,
            1,
            2,
            8,
            1,
            tokens_,
            y};
  }

  Random random_;
  int64_t columns_, tokens_;
  Stack wi_, wo_;
  Array<float> x_, gate_, qkv_, bias_;
  Array<int32_t> expert_;
  Array<int64_t> mask_;
  std::vector<double> moe_expected_, linear_expected_, self_expected_, cross_expected_;
};

// Scratch memory belongs to a thread: callers and workers of several pools must not share any.
void several_callers_at_once() {
  for (const Format& format : formats()) {
    if (format.block > 64) continue;
    std::vector<std::unique_ptr<Caller>> callers;
    for (uint64_t seed : {1, 9, 30}) callers.push_back(std::make_unique<Caller>(seed, format));
    for (const char* name : switch_ops::available_kernels()) {
      std::vector<std::string> problems(callers.size());
      std::vector<std::thread> threads;
      for (size_t i = 0; i < callers.size(); ++i) {
        threads.emplace_back([&, i] {
          const auto pool = switch_ops::make_thread_pool(static_cast<int>(i) + 1);
          try {
            for (int round = 0; round < (kSanitized ? 3 : 20); ++round) {
              callers[i]->run(Context{*switch_ops::find_kernels(name), *pool});
            }
          } catch (const Failure& failure) {
            problems[i] = failure.message;
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const std::string& problem : problems) {
        expect(problem.empty(), std::string(name) + ", " + format.name() + ": " + problem);
      }
    }
  }
}

void bandwidth_is_a_number() {
  const Array<char> data(1 << 20);
  for (int threads : {1, 3}) {
    for (int streams : {1, 4, 8}) {
      expect(switch_read_bandwidth(data.data(), 1 << 20, streams, threads) > 0, "bandwidth");
    }
  }
  expect_equal(switch_read_bandwidth(nullptr, 1 << 20, 1, 1), 0.0, "bandwidth of no data");
  expect_equal(switch_read_bandwidth(data.data(), 1 << 20, 0, 1), 0.0, "of no stream");
  expect_equal(switch_read_bandwidth(data.data(), 1 << 20, 1, 0), 0.0, "of no thread");
  expect_equal(switch_read_bandwidth(data.data(), 100, 1, 1), 0.0, "of less than a page");
}

// Every instruction set reads the whole array and nothing beyond it.
void reading_ends_where_the_array_does() {
  const Array<float> data(16 << 10);
  on_everything("read", [&](const Context& context) {
    for (int streams : {1, 3, 8}) {
      std::fill(data.begin(), data.end(), 1.0f);
      expect_equal(context.kernels.read(data.data(), 64 << 10, streams), 1.0f, "the largest value");
    }
  });
}

void names_of_kernels() {
  const std::vector<const char*> names = switch_ops::available_kernels();
  expect_equal(std::string(names.front()), std::string("portable"), "the slowest");
  for (const char* name : names) {
    expect_equal(std::string(switch_ops::find_kernels(name)->name), std::string(name), "name");
  }
  expect(switch_ops::find_kernels("avx3") == nullptr, "avx3 is no instruction set");
  expect(switch_ops::find_kernels("") == nullptr, "no name is no instruction set");
}

}  // namespace

int main() {
  return run_tests({
      {"every task runs once", every_task_runs_once},
      {"results of tasks are seen", results_of_tasks_are_seen},
      {"pools that are never used end", pools_that_are_never_used_end},
      {"several callers at once", several_callers_at_once},
      {"bandwidth is a number", bandwidth_is_a_number},
      {"reading ends where the array does", reading_ends_where_the_array_does},
      {"names of kernels", names_of_kernels},
  });
}
