#include "switch_ops.h"

#include <chrono>
#include <exception>

#include "kernels.h"
#include "parallel.h"

const char* switch_kernels_name(void) {
  try {
    return switch_ops::kernels().name;
  } catch (const std::exception&) {
    return nullptr;
  }
}

double switch_read_bandwidth(const void* data, size_t bytes, int streams, int threads) {
  constexpr size_t kUnit = 4096;
  if (!data || streams < 1 || threads < 1) return 0;
  const size_t part = bytes / static_cast<size_t>(threads) / kUnit * kUnit;
  if (part < kUnit * static_cast<size_t>(streams)) return 0;
  try {
    const switch_ops::Kernels& kernels = switch_ops::kernels();
    const auto pool = switch_ops::make_thread_pool(threads);
    const auto read = [&](int64_t i) {
      kernels.read(static_cast<const char*>(data) + static_cast<size_t>(i) * part,
                   static_cast<int64_t>(part), streams);
    };
    pool->each(threads, [](int64_t) {});  // the threads are awake
    const auto start = std::chrono::steady_clock::now();
    pool->each(threads, read);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    return static_cast<double>(part) * threads / taken.count();
  } catch (const std::exception&) {
    return 0;
  }
}
