#include "kernel_cases.h"

#include <csignal>

namespace switch_tests {
namespace {

using switch_ops::Kernels;
using switch_ops::Parallel;

// The nearest half: round to even, subnormal numbers included.
uint16_t to_half(float x) {
  const double magnitude = std::fabs(x);
  const int sign = x < 0 ? 0x8000 : 0;
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  int exponent = std::max(std::ilogb(magnitude), -14);
  auto fraction = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  if (fraction == 2048) fraction = 1024, ++exponent;
  const int biased = fraction < 1024 ? 0 : exponent + 15;
  return static_cast<uint16_t>(sign | biased << 10 | (fraction & 1023));
}

uint16_t to_bfloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x8000) >> 16);
}

void fill_floats(Random& random, const Format& format, float spread, Array<char>& bytes) {
  const int64_t size = format.type == WeightType::kFloat32 ? 4 : 2;
  for (int64_t i = 0; i < bytes.size() / size; ++i) {
    const float value = random.normal() * spread;
    char* to = bytes.data() + i * size;
    if (format.type == WeightType::kFloat32) {
      std::memcpy(to, &value, sizeof value);
    } else {
      const uint16_t half = format.type == WeightType::kFloat16 ? to_half(value) : to_bfloat(value);
      std::memcpy(to, &half, sizeof half);
    }
  }
}

void fill_codes(Random& random, const Format& format, bool whole, Array<char>& bytes) {
  for (char& byte : bytes) {
    if (format.type == WeightType::kInt4) {
      byte = static_cast<char>(random.below(256));
    } else {
      byte = static_cast<char>(whole ? random.between(-20, 20) : random.between(-127, 127));
    }
  }
}

// What is running, for a process that ends at a guard page.
std::string running;

void tell_and_end(int) {
  const char text[] = "a guard page or another wrong address was touched: ";
  ssize_t written = write(2, text, sizeof text - 1);
  written += write(2, running.data(), running.size());
  written += write(2, "\n", 1);
  _exit(written > 0 ? 1 : 2);
}

}  // namespace

const std::vector<Format>& formats() {
  using T = WeightType;
  static const std::vector<Format> all = {
      {T::kFloat32, 0}, {T::kFloat16, 0}, {T::kBFloat16, 0}, {T::kInt8, 0}, {T::kInt8, 32},
      {T::kInt8, 64},   {T::kInt8, 128},  {T::kInt8, 256},   {T::kInt4, 0}, {T::kInt4, 32},
      {T::kInt4, 64},   {T::kInt4, 128},  {T::kInt4, 256}};
  return all;
}

Stack random_stack(Random& random, const Format& format, const Shape& shape, bool whole) {
  Stack stack;
  Weight& w = stack.weight;
  w.type = format.type;
  w.block = format.block;
  w.rows = shape.rows, w.columns = shape.columns, w.count = shape.count;
  stack.values = Array<char>(w.count * w.rows * w.row_bytes());
  w.data = stack.values.data();
  if (!format.quantised()) {
    fill_floats(random, format, 1 / std::sqrt(static_cast<float>(shape.columns)), stack.values);
    return stack;
  }
  fill_codes(random, format, whole, stack.values);
  stack.scales = Array<float>(w.count * w.rows * w.blocks());
  for (float& s : stack.scales) {
    s = whole ? std::ldexp(1.0f, static_cast<int>(random.between(-6, -4)))
              : (1.1f + random.uniform()) * 0x1p-9f;
    if (random.below(4) == 0) s = -s;
  }
  w.scale = stack.scales.data();
  return stack;
}

void on_everything(const std::string& what, const std::function<void(const Context&)>& body) {
  static const std::vector<int> threads =
      kSanitized ? std::vector<int>{1, 3} : std::vector<int>{1, 2, 3, 8};
  static std::vector<std::unique_ptr<Parallel>> pools;
  if (pools.empty()) {
    for (int n : threads) pools.push_back(switch_ops::make_thread_pool(n));
    if (!kSanitized) std::signal(SIGSEGV, tell_and_end);  // a sanitizer tells more
  }
  for (const char* name : switch_ops::available_kernels()) {
    for (size_t i = 0; i < pools.size(); ++i) {
      running = std::string(name) + ", " + show(threads[i]) + " threads, " + what;
      try {
        body(Context{*switch_ops::find_kernels(name), *pools[i]});
      } catch (const Failure& failure) {
        throw Failure{running + ": " + failure.message};
      }
    }
  }
}

void expect_near(const Array<float>& found, const std::vector<double>& expected, double tolerance,
                 const std::string& what) {
  expect_equal(found.size(), static_cast<int64_t>(expected.size()), "size of " + what);
  if (expected.empty()) return;
  double largest = 1e-30, worst = -1;
  int64_t at = 0;
  for (double e : expected) largest = std::max(largest, std::abs(e));
  for (int64_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - expected[static_cast<size_t>(i)]);
    if (difference > worst) worst = difference, at = i;
    if (std::isnan(difference)) {
      worst = std::numeric_limits<double>::infinity(), at = i;
      break;
    }
  }
  if (worst <= tolerance * largest) return;
  throw Failure{what + "[" + show(at) + "] of " + show(found.size()) + " is " + show(found[at]) +
                ", expected " + show(expected[static_cast<size_t>(at)]) + " within " +
                show(tolerance * largest)};
}

void expect_refused(const std::vector<std::string>& parts, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    for (const std::string& part : parts) {
      expect(message.find(part) != std::string::npos,
             "\"" + part + "\" is not in \"" + message + "\"");
    }
    return;
  }
  throw Failure{"no error, expected one with " + show(parts)};
}

}  // namespace switch_tests
