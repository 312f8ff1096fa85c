// The decoder of one batch: steps over a cache that it owns. An item is one source with the rows
// that decode it; rows of an item are neighbours.
#ifndef SWITCH_SRC_DECODER_H_
#define SWITCH_SRC_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "backend.h"
#include "cache.h"
#include "config.h"
#include "encoder.h"

namespace switch_runtime {

// What a decoder reads, and how far.
struct DecoderPlan {
  std::vector<int64_t> prefixes;  // [items, prefix] start tokens included
  int64_t prefix;
  int64_t rows_per_item;
  int64_t limit;  // the longest sequence, prefix included
};

class Decoder {
 public:
  // Runs the encoder.
  Decoder(Backend& backend, const Config& config, const Sources& sources, DecoderPlan plan);

  int64_t items() const { return items_; }
  int64_t rows() const { return items_ * plan_.rows_per_item; }
  int64_t steps() const { return steps_; }

  // The tokens that the next step reads, [rows]. The first step reads the prefixes.
  std::vector<int64_t>& tokens() { return tokens_; }

  // Decode one token per row. Returns the logits, [rows, vocab]; the caller may write to them.
  float* step();

  // Row r continues what row parents[r] was.
  void reorder(const std::vector<int64_t>& parents) { cache_.reorder(parents, position_); }

  // Drop an item: the last one takes its place.
  void drop(int64_t item);

 private:
  // Whether the first step is like any other.
  bool is_plain() const { return plan_.prefix == 1 && plan_.rows_per_item == 1; }
  void make_outputs(int64_t rows, int64_t tokens);
  void bind(std::vector<int64_t>& ids, int64_t rows, int64_t tokens);
  // The first step: one row for each item, then copies of it.
  void read_prefixes();

  Backend& backend_;
  const Config& config_;
  DecoderPlan plan_;
  int64_t items_;
  int64_t position_ = 0;
  int64_t steps_ = 0;
  bool bound_ = false;
  std::vector<int64_t> tokens_;
  Sources sources_;
  std::vector<Array> cross_;
  std::vector<Array> outputs_;    // logits, then the new rows
  std::vector<Tensor> new_rows_;  // those of outputs_
  SelfCache cache_;
  std::unique_ptr<BoundGraph> graph_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_DECODER_H_
