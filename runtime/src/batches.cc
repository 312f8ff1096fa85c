#include "batches.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace switch_runtime {

std::vector<std::vector<int64_t>> plan_batches(const std::vector<RowCost>& rows, int64_t most) {
  std::vector<int64_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int64_t i) {
    return std::make_tuple(rows[i].group, -rows[i].source, -rows[i].target, i);
  };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });

  std::vector<std::vector<int64_t>> batches;
  RowCost largest{};
  for (int64_t i : order) {
    const RowCost& row = rows[i];
    const RowCost both = {std::max(largest.source, row.source),
                          std::max(largest.target, row.target), row.group};
    const auto count = batches.empty() ? 0 : static_cast<int64_t>(batches.back().size()) + 1;
    // Divided, not multiplied: a limit on new tokens may be any number.
    const bool fits = count > 0 && row.group == largest.group && both.source <= most / count &&
                      both.target <= most / count;
    if (!fits) batches.emplace_back();
    largest = fits ? both : row;
    batches.back().push_back(i);
  }
  return batches;
}

}  // namespace switch_runtime
