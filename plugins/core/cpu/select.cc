#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tables.h"

namespace switch_ops {
namespace {

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> tables = {&portable_kernels()};
#ifdef __x86_64__
  __builtin_cpu_init();
  const auto has_avx2 = [] {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  };
  const auto has_avx512 = [] {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  };
  if (has_avx2()) tables.push_back(&avx2_kernels());
  if (has_avx2() && has_avx512()) {
    tables.push_back(&avx512_kernels());
    if (__builtin_cpu_supports("avx512vnni")) tables.push_back(&avx512_vnni_kernels());
  }
#endif
  return tables;
}

const Kernels& choose() {
  const char* wanted = std::getenv("SWITCH_KERNELS");
  if (!wanted || !*wanted) return *runnable().back();
  if (const Kernels* found = find_kernels(wanted)) return *found;
  std::string names;
  for (const char* name : available_kernels())
    names += std::string(names.empty() ? "" : ", ") + name;
  throw std::invalid_argument(std::string("SWITCH_KERNELS is \"") + wanted +
                              "\", this processor runs " + names);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels* find_kernels(const char* name) {
  for (const Kernels* table : runnable()) {
    if (std::string(table->name) == name) return table;
  }
  return nullptr;
}

std::vector<const char*> available_kernels() {
  std::vector<const char*> names;
  for (const Kernels* table : runnable()) names.push_back(table->name);
  return names;
}

}  // namespace switch_ops
