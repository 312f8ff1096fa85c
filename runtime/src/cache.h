// The self-attention cache of one generate call: keys and values of every decoder layer.
#ifndef SWITCH_SRC_CACHE_H_
#define SWITCH_SRC_CACHE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "tensor.h"

namespace switch_runtime {

struct CacheShape {
  int64_t layers;
  int64_t rows;
  int64_t heads;
  int64_t head_size;
};

// Copies that turn row r into what row parents[r] was, in an order in which no source is
// overwritten too early. kSaved stands for the one spare row that breaks a cycle.
struct RowCopy {
  static constexpr int64_t kSaved = -1;
  int64_t from;
  int64_t to;
};
std::vector<RowCopy> plan_row_copies(const std::vector<int64_t>& parents);

class SelfCache {
 public:
  // `most` is the largest number of tokens that will ever be stored.
  SelfCache(CacheShape shape, int64_t most);

  // Views named self_key.i and self_value.i, [rows, heads, capacity, head_size] each.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  int64_t capacity() const { return capacity_; }

  // Make room for `tokens`, keeping the first `valid`. True if the tensors moved.
  bool reserve(int64_t tokens, int64_t valid);

  // Store new_key.i and new_value.i, [rows, heads, 1, head_size] each, at `position`.
  void append(const std::vector<Tensor>& rows, int64_t position);

  // Give row r the first `valid` tokens of row parents[r]. Only rows that change are moved.
  void reorder(const std::vector<int64_t>& parents, int64_t valid);

 private:
  void allocate(int64_t capacity);
  void copy_row(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                int64_t tokens) const;

  CacheShape shape_;
  int64_t most_;
  int64_t capacity_ = 0;
  Buffer memory_;
  Buffer spare_;  // one row of one tensor, for cycles
  std::vector<Tensor> tensors_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_CACHE_H_
