// What is wrong with the arguments of an operator, all of it in one error.
#ifndef SWITCH_CORE_CUDA_CHECKS_H_
#define SWITCH_CORE_CUDA_CHECKS_H_

#include <string>

#include "../weight.h"

namespace switch_ops::cuda {

class Checks {
 public:
  explicit Checks(std::string name) : name_(std::move(name)) {}

  // "<what>, expected <expected>" is wrong where `holds` is not so.
  void require(bool holds, const std::string& what, const std::string& expected);
  void float_type(WeightType type, const std::string& what);
  // A type, a multiple of 16 bytes a row, a legal block.
  void weight(const Weight& weight, const std::string& what);
  // Not null, and a multiple of `alignment`.
  void array(const void* pointer, const std::string& what, int alignment);
  void weight_arrays(const Weight& weight, const std::string& what);

  // Throws std::invalid_argument where anything was wrong.
  void finish() const;

 private:
  std::string name_, problems_;
};

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_CHECKS_H_
