// Assertions that say what was found, and a main that runs every test and counts failures.
#ifndef SWITCH_TESTS_CHECK_H_
#define SWITCH_TESTS_CHECK_H_

#include <cmath>
#include <functional>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace switch_tests {

// Sanitizers make everything ten times slower: random sweeps shrink, edge cases stay.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

struct Failure {
  std::string message;
};

template <typename T>
std::string show(const T& value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

template <typename T>
std::string show(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + show(value);
  return text + "]";
}

inline void expect(bool holds, const std::string& what) {
  if (!holds) throw Failure{what};
}

template <typename A, typename B>
[[noreturn]] void differ(const A& found, const B& expected, const std::string& what) {
  throw Failure{what + " is " + show(found) + ", expected " + show(expected)};
}

template <typename A, typename B>
void expect_equal(const A& found, const B& expected, const std::string& what) {
  if (!(found == expected)) differ(found, expected, what);
}

inline void expect_close(double found, double expected, double tolerance, const std::string& what) {
  const bool close = std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected));
  if (!close) differ(found, expected, what);
}

// The message of the Error that `body` throws; it must have the status and hold every part.
inline std::string expect_error(switch_status status, const std::vector<std::string>& parts,
                                const std::function<void()>& body) {
  try {
    body();
  } catch (const switch_runtime::Error& error) {
    const std::string message = error.what();
    expect_equal(static_cast<int>(error.status()), static_cast<int>(status),
                 "status of \"" + message + "\"");
    for (const auto& part : parts) {
      expect(message.find(part) != std::string::npos,
             "\"" + part + "\" is not in \"" + message + "\"");
    }
    return message;
  }
  throw Failure{"no error, expected one with \"" + show(parts) + "\""};
}

inline std::vector<float> random_normal(size_t count, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

using Tests = std::vector<std::pair<std::string, std::function<void()>>>;

inline int run_tests(const Tests& tests) {
  int failures = 0;
  for (const auto& [name, test] : tests) {
    std::string problem;
    try {
      test();
    } catch (const Failure& failure) {
      problem = failure.message;
    } catch (const std::exception& error) {
      problem = std::string("unexpected exception: ") + error.what();
    }
    failures += !problem.empty();
    std::cout << (problem.empty() ? "ok      " : "FAILED  ") << name << "\n";
    if (!problem.empty()) std::cout << "        " << problem << "\n";
  }
  std::cout << tests.size() - failures << " of " << tests.size() << " passed\n";
  return failures == 0 ? 0 : 1;
}

}  // namespace switch_tests

#endif  // SWITCH_TESTS_CHECK_H_
