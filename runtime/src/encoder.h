// Sources, checked and padded, and one run of the encoder over them.
#ifndef SWITCH_SRC_ENCODER_H_
#define SWITCH_SRC_ENCODER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "backend.h"
#include "config.h"

namespace switch_runtime {

// Token ids of several sources, as the C API gets them.
struct TokenLists {
  const switch_ids* rows;
  int64_t batch;
};

// Right-padded: [batch, width] each.
struct Sources {
  int64_t batch = 0;
  int64_t width = 0;
  std::vector<int64_t> lengths;
  std::vector<int64_t> ids;
  std::vector<int64_t> mask;

  Tensor ids_tensor() const;
  Tensor mask_tensor() const;
  // Remove a row: the last one takes its place.
  void drop(int64_t row);
};

// Throws Error SWITCH_INVALID_ARGUMENT with the place and value of a wrong id.
void check_ids(const Config& config, const char* what, const int64_t* ids, int64_t count);

// Checks lengths and ids of all rows; throws Error SWITCH_INVALID_ARGUMENT. `what` names a row:
// "source" in "source 3 is empty".
void check_lists(const Config& config, const char* what, const TokenLists& lists);

// The given rows of checked lists, padded. Throws Error SWITCH_OUT_OF_MEMORY for what the encoder
// could not hold, before anything is allocated.
Sources make_sources(const Config& config, const TokenLists& lists,
                     const std::vector<int64_t>& rows);

// cross_key.i and cross_value.i of every decoder layer; none for task `encoder`.
std::vector<Array> make_cross(const Config& config, const Sources& sources);

// Append expert.i and gate.i of the given layers, [rows, tokens] each.
void add_routes(std::vector<Array>& arrays, const std::vector<int64_t>& layers, int64_t rows,
                int64_t tokens);

void run_encoder(Backend& backend, const Sources& sources, const std::vector<Array>& outputs);

std::vector<Tensor> tensors_of(const std::vector<Array>& arrays);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_ENCODER_H_
