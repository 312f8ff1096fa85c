#include "memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "error.h"

namespace switch_runtime {
namespace {

constexpr double kFloat = 4;  // bytes

std::string gibibytes(double bytes) {
  char text[64];
  std::snprintf(text, sizeof text, bytes < 1e16 ? "%.1f GiB" : "%.2g GiB", bytes / (1 << 30));
  return text;
}

// A control group's file holds a number, or "max".
double limit_in(const char* path) {
  std::ifstream file(path);
  double limit = 0;
  return file >> limit && limit > 0 ? limit : 1e300;
}

double sparse_share(const std::vector<int64_t>& sparse) { return sparse.empty() ? 1 : 2; }

}  // namespace

double encoder_demand(const Config& config, int64_t batch, int64_t width) {
  const double rows = batch, tokens = width, heads = config.num_heads;
  // Scores before and after the softmax, the position bias, and its table of bucket numbers.
  const double attention = (2 * rows + 1) * heads * tokens * tokens * kFloat + tokens * tokens * 8;
  const double hidden =
      rows * tokens * kFloat *
      (double(config.d_ff) * sparse_share(config.sparse_encoder_layers) + 4.0 * config.d_model);
  const double cross = 2.0 * config.num_decoder_layers * rows * heads * tokens * config.d_kv;
  return attention + hidden + (config.task == Task::kEncoder ? 0 : cross * kFloat);
}

double decoder_demand(const Config& config, const DecoderDemand& demand) {
  const double rows = demand.rows, steps = demand.steps, heads = config.num_heads;
  const double keys = double(demand.cached) + steps + demand.width;
  const double attention = 2 * rows * heads * steps * keys;
  const double cache =
      2.0 * config.num_decoder_layers * rows * heads * config.d_kv * (demand.cached + steps);
  const double logits = 2 * rows * steps * config.vocab_size;
  const double hidden = rows * steps * (double(config.d_ff) + 4.0 * config.d_model);
  return (attention + cache + logits + hidden) * kFloat;
}

double memory_limit() {
  double limit = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGE_SIZE));
  limit = std::min(limit, limit_in("/sys/fs/cgroup/memory.max"));
  limit = std::min(limit, limit_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  rlimit address_space{};
  if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
    limit = std::min(limit, double(address_space.rlim_cur));
  }
  return limit;
}

void check_memory(const std::string& what, double bytes, const std::string& advice) {
  const double limit = memory_limit();
  if (bytes <= limit) return;
  throw Error(SWITCH_OUT_OF_MEMORY, "too long for memory: " + what + " needs about " +
                                        gibibytes(bytes) + ", this machine has " +
                                        gibibytes(limit) + ". " + advice);
}

}  // namespace switch_runtime
