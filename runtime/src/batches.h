// Many rows of different lengths, worked through in batches of similar ones.
#ifndef SWITCH_SRC_BATCHES_H_
#define SWITCH_SRC_BATCHES_H_

#include <cstdint>
#include <vector>

namespace switch_runtime {

// What one row of a call costs, in tokens.
struct RowCost {
  int64_t source;  // of the encoder; padded to the longest of its batch
  int64_t target;  // of the decoder, of all rows that decode this source; likewise
  int64_t group;   // only rows of one group share a batch
};

// Indices of rows, batch by batch: longest first, those of one length in their order. In a batch of
// more than one row, rows * longest source and rows * longest target are at most `most`.
std::vector<std::vector<int64_t>> plan_batches(const std::vector<RowCost>& rows, int64_t most);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_BATCHES_H_
