// What the kernels' tests share: arrays with a guard page behind them, random weights of every
// type, every instruction set with every number of threads, and one table of tolerances.
#ifndef SWITCH_TESTS_KERNEL_CASES_H_
#define SWITCH_TESTS_KERNEL_CASES_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "reference.h"

namespace switch_tests {

using switch_ops::Context;
using switch_ops::Weight;
using switch_ops::WeightType;

// Relative to the largest |reference| of the tensor.
constexpr double kTolerance = 1e-5;  // float32 sums, and quantised ones: both see the same integers
constexpr double kRoundedTwice = 2e-2;  // a hidden value's last bit may move its int8 value by one

// An array whose last byte is the last of a page, before one that nothing may touch: a read or a
// write beyond its end ends the program. Starts as NaN or 0x7F bytes.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count = 0) : count_(count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t room = (bytes + page - 1) / page * page;
    bytes_ = room + page;
    void* start = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<char*>(start);
    mprotect(start_ + room, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(start_ + room - bytes);
    for (int64_t i = 0; i < count; ++i) data_[i] = unset();
  }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() {
    if (start_) munmap(start_, bytes_);
  }

  // Written at by nobody yet.
  static T unset() {
    return std::numeric_limits<T>::has_quiet_NaN ? std::numeric_limits<T>::quiet_NaN()
                                                 : static_cast<T>(0x7F);
  }
  T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }

 private:
  void swap(Array& other) {
    std::swap(start_, other.start_);
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }

  char* start_ = nullptr;
  size_t bytes_ = 0;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

// The same numbers everywhere: distributions of the C++ library are not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  template <typename T>
  T of(const std::vector<T>& values) {
    return values[static_cast<size_t>(below(static_cast<int64_t>(values.size())))];
  }
  float uniform() { return static_cast<float>(engine_() >> 40) * 0x1p-23f - 1; }  // -1 to 1
  float normal() { return uniform() + uniform() + uniform(); }                    // nearly

  Array<float> normals(int64_t count, float scale = 1) {
    Array<float> values(count);
    for (float& v : values) v = normal() * scale;
    return values;
  }
  // Small integers and one of 127, in rows: quantising them changes nothing.
  Array<float> whole_rows(int64_t rows, int64_t columns) {
    Array<float> values(rows * columns);
    for (float& v : values) v = static_cast<float>(between(-6, 6));
    for (int64_t r = 0; r < rows && columns > 0; ++r) {
      values[r * columns + below(columns)] = below(2) ? 127.0f : -127.0f;
    }
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

// A type of weight and its block.
struct Format {
  WeightType type;
  int64_t block;

  bool quantised() const { return switch_ops::is_quantised(type); }
  // int4 has two columns a byte.
  int64_t legal(int64_t columns) const {
    return type == WeightType::kInt4 ? columns + columns % 2 : columns;
  }
  std::string name() const {
    const char* names[] = {"fp32", "fp16", "bf16", "int8", "int4"};
    return names[static_cast<int>(type)] + std::string(block ? "/" + std::to_string(block) : "");
  }
};

const std::vector<Format>& formats();

// Stored values of every kind, and what describes them.
struct Stack {
  Array<char> values;
  Array<float> scales;
  Weight weight;
};

struct Shape {
  int64_t rows, columns, count = 1;
};

// `whole`: values whose sums with Random::whole_rows are exact in float32.
Stack random_stack(Random& random, const Format& format, const Shape& shape, bool whole = false);

// Run `body` on each instruction set of this machine with 1, 2, 3 and 8 threads. A failure says
// where.
void on_everything(const std::string& what, const std::function<void(const Context&)>& body);

// The worst element, NaN being worse than any, within tolerance * the largest |expected|.
void expect_near(const Array<float>& found, const std::vector<double>& expected, double tolerance,
                 const std::string& what);

// `body` throws std::invalid_argument whose message has every part.
void expect_refused(const std::vector<std::string>& parts, const std::function<void()>& body);

}  // namespace switch_tests

#endif  // SWITCH_TESTS_KERNEL_CASES_H_
