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

  // Store new_key.i and new_value.i, [rows, heads, tokens, head_size] each, at `position`.
  void append(const std::vector<Tensor>& rows, int64_t position, int64_t tokens);

  // Make `times` neighbouring copies of every row, of its first `valid` tokens.
  void repeat(int64_t times, int64_t valid);

  // Give rows [to, to + count) what rows [from, from + count) hold, of their first `valid` tokens.
  void move(int64_t from, int64_t to, int64_t count, int64_t valid);

  // Forget the last `count` rows.
  void shrink(int64_t count);

  // Give row r the first `valid` tokens of row parents[r]. Only rows that change are moved.
  void reorder(const std::vector<int64_t>& parents, int64_t valid);

 private:
  void allocate(int64_t capacity);
  // Move everything into memory of another size; new row r is old row r / times.
  void rebuild(int64_t capacity, int64_t times, int64_t valid);
  void copy_row(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                int64_t tokens) const;
  float* row(const Tensor& tensor, int64_t row) const;

  CacheShape shape_;
  int64_t most_;
  int64_t capacity_ = 0;
  Buffer memory_;
  Buffer spare_;  // one row of one tensor, for cycles
  std::vector<Tensor> tensors_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_CACHE_H_
