// The emulator itself: what it computes, and that it shows what is wrong.
#include <switch_ptx.h>

#include "device_array.h"
#include "reduce.h"

using namespace switch_tests;
namespace ptx = switch_ops::ptx;

namespace {

void run(unsigned threads, size_t shared, const std::function<void()>& kernel) {
  expect(emulator::run_grid(dim3(1), dim3(threads), shared, kernel), "the launch is accepted");
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

void sums_and_maxima_of_a_block() {
  in_every_order(8, "reduce", [] {
    run(96, 128, [] {
      auto* memory = reinterpret_cast<float*>(ptx::shared_memory());
      const float mine = static_cast<float>(threadIdx.x);
      expect_equal(switch_ops::cuda::block_sum(mine, memory), 4560.0f, "sum");
      expect_equal(switch_ops::cuda::block_max(-mine, memory), 0.0f, "max");
    });
  });
}

// Integers, so that any order of summation is exact; a[i, k] = i + k, b[j, k] = j - k.
void product_of_fragments() {
  in_every_order(8, "multiply", [] {
    run(32, 0, [] {
      const int lane = static_cast<int>(threadIdx.x), g = lane / 4, c = lane % 4;
      const auto two = [](int low, int high) {
        return ptx::pack_bf16(static_cast<float>(low), static_cast<float>(high));
      };
      uint32_t a[4], b[2];
      for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i % 2), k = 2 * c + 8 * (i / 2);
        a[i] = two(row + k, row + k + 1);
      }
      for (int i = 0; i < 2; ++i) b[i] = two(g - 2 * c - 8 * i, g - 2 * c - 8 * i - 1);
      float d[4] = {1, 1, 1, 1};
      ptx::multiply_bf16(d, a, b);
      for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * c + i % 2;
        float sum = 1;
        for (int k = 0; k < 16; ++k) sum += static_cast<float>((row + k) * (column - k));
        expect_equal(d[i], sum, "d");
      }
    });
  });
}

void a_copy_arrives_when_it_is_waited_for() {
  DeviceArray<float> from(4);
  in_every_order(8, "copy", [&] {
    run(32, 512, [&] {
      auto* memory = reinterpret_cast<float*>(ptx::shared_memory()) + 4 * threadIdx.x;
      ptx::async_copy16(memory, from.data(), false);
      ptx::async_commit();
      expect(std::isnan(memory[0]), "not there yet");
      ptx::async_wait<0>();
      expect_equal(memory[3], 0.0f, "value");
    });
  });
}

// Each thread reads its neighbour's value; right in one order only where a barrier is missing.
void a_missing_barrier_shows() {
  const auto failures = [](bool barrier) {
    int count = 0;
    for (auto order : {emulator::Order::kForward, emulator::Order::kBackward}) {
      emulator::settings().order = order;
      count += !error_of([=] {
                  run(64, 256, [=] {
                    auto* memory = reinterpret_cast<int*>(ptx::shared_memory());
                    memory[threadIdx.x] = static_cast<int>(threadIdx.x);
                    if (barrier) __syncthreads();
                    const unsigned next = (threadIdx.x + 1) % 64;
                    if (memory[next] != static_cast<int>(next))
                      throw std::runtime_error("not yet written");
                  });
                }).empty();
    }
    return count;
  };
  expect_equal(failures(true), 0, "failures with a barrier");
  expect(failures(false) > 0, "without one some order fails");
}

void threads_that_wait_for_ever_are_an_error() {
  const std::string error = error_of([] {
    run(64, 0, [] {
      if (threadIdx.x < 3) __syncwarp();
    });
  });
  expect(error.find("3 of 64 threads wait for ever") != std::string::npos, error);
}

// One kernel writes what the next one reads; the next one may start early.
void reading_before_dependency_wait_shows() {
  const auto result = [](bool waits) {
    DeviceArray<int32_t> values(32), copies(32);
    const auto start = [](const std::function<void()>& kernel) {
      expect(emulator::run_grid(dim3(1), dim3(32), 0, kernel, true), "the launch is accepted");
    };
    emulator::settings().overlaps = true;
    start([&] {
      ptx::dependency_wait();
      values.data()[threadIdx.x] = 7;
    });
    start([&] {
      if (waits) ptx::dependency_wait();
      copies.data()[threadIdx.x] = values.data()[threadIdx.x];
      ptx::dependency_wait();
    });
    return copies.values()[0];
  };
  expect_equal(result(true), 7, "what a kernel that waits has read");
  expect_equal(result(false), -1, "what one that does not has read");
}

void a_launch_that_no_device_takes_is_refused() {
  const auto nothing = [] {};
  expect(!emulator::run_grid(dim3(1), dim3(2048), 0, nothing), "2048 threads");
  expect(!emulator::run_grid(dim3(0), dim3(32), 0, nothing), "no block");
  expect(!emulator::run_grid(dim3(1), dim3(32), 1 << 20, nothing), "a megabyte of shared memory");
}

}  // namespace

int main() {
  return run_tests({
      {"sums and maxima of a block", sums_and_maxima_of_a_block},
      {"product of fragments", product_of_fragments},
      {"a copy arrives when it is waited for", a_copy_arrives_when_it_is_waited_for},
      {"a missing barrier shows", a_missing_barrier_shows},
      {"threads that wait for ever are an error", threads_that_wait_for_ever_are_an_error},
      {"reading before dependency_wait shows", reading_before_dependency_wait_shows},
      {"a launch that no device takes is refused", a_launch_that_no_device_takes_is_refused},
  });
}
