// The decoder of one generate call: one token per row and step, over a cache that it owns.
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

class Decoder {
 public:
  // Runs the encoder. `rows` is the batch times the beams of each source, `most_steps` how often
  // step() may be called.
  Decoder(Backend& backend, const Config& config, const Sources& sources, int64_t rows,
          int64_t most_steps);

  int64_t rows() const { return rows_; }
  int64_t steps() const { return position_; }

  // The tokens that the next step reads, [rows]; the start token at first.
  std::vector<int64_t>& tokens() { return tokens_; }

  // Decode one token per row. Returns the logits, [rows, vocab]; the caller may write to them.
  float* step();

  // Row r continues what row parents[r] was.
  void reorder(const std::vector<int64_t>& parents) { cache_.reorder(parents, position_); }

 private:
  void bind();

  Backend& backend_;
  const Sources& sources_;
  int64_t rows_;
  int64_t position_ = 0;
  std::vector<int64_t> tokens_;
  std::vector<Array> cross_;
  std::vector<Array> outputs_;  // logits, then the new rows
  std::vector<Tensor> new_rows_;
  SelfCache cache_;
  std::unique_ptr<BoundGraph> graph_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_DECODER_H_
