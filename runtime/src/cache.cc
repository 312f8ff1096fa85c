#include "cache.h"

#include <algorithm>
#include <cstring>

namespace switch_runtime {
namespace {

constexpr int64_t kFirstCapacity = 32;

// Doubling keeps the copying of old rows below one copy per token.
int64_t bucket(int64_t tokens, int64_t most) {
  int64_t capacity = kFirstCapacity;
  while (capacity < tokens) capacity *= 2;
  return std::max<int64_t>(1, std::min(capacity, most));
}

}  // namespace

std::vector<RowCopy> plan_row_copies(const std::vector<int64_t>& parents) {
  const auto rows = static_cast<int64_t>(parents.size());
  std::vector<int64_t> readers(parents.size(), 0);  // rows that still need this one's old contents
  for (int64_t row = 0; row < rows; ++row) {
    if (parents[row] != row) ++readers[parents[row]];
  }
  std::vector<char> done(parents.size());
  for (int64_t row = 0; row < rows; ++row) done[row] = parents[row] == row;

  std::vector<RowCopy> copies;
  // Overwrite `row` if nobody needs it, then perhaps its parent, and so on.
  const auto follow = [&](int64_t row) {
    while (!done[row] && readers[row] == 0) {
      copies.push_back({parents[row], row});
      done[row] = 1;
      --readers[parents[row]];
      row = parents[row];
    }
  };
  for (int64_t row = 0; row < rows; ++row) follow(row);

  // What is left are cycles: save one row, then move round.
  for (int64_t first = 0; first < rows; ++first) {
    if (done[first]) continue;
    copies.push_back({first, RowCopy::kSaved});
    int64_t row = first;
    for (; parents[row] != first; row = parents[row]) {
      copies.push_back({parents[row], row});
      done[row] = 1;
    }
    copies.push_back({RowCopy::kSaved, row});
    done[row] = 1;
  }
  return copies;
}

SelfCache::SelfCache(CacheShape shape, int64_t most) : shape_(shape), most_(most) {
  allocate(bucket(1, most_));
}

void SelfCache::allocate(int64_t capacity) {
  const std::vector<int64_t> shape = {shape_.rows, shape_.heads, capacity, shape_.head_size};
  const size_t size = count_of(shape);
  const size_t bytes = count_of({2 * shape_.layers, static_cast<int64_t>(size)}) * sizeof(float);
  Buffer memory(bytes);
  // Masked rows still pass through the arithmetic: what is not a number there would spread.
  std::memset(memory.as<char>(), 0, bytes);
  Buffer spare(size / static_cast<size_t>(shape_.rows) * sizeof(float));
  std::vector<Tensor> tensors;
  float* data = memory.as<float>();
  for (int64_t i = 0; i < shape_.layers; ++i) {
    for (const char* name : {"self_key.", "self_value."}) {
      tensors.push_back({name + std::to_string(i), Type::kFloat32, shape, data});
      data += size;
    }
  }
  memory_ = std::move(memory);
  spare_ = std::move(spare);
  tensors_ = std::move(tensors);
  capacity_ = capacity;
}

// Strides are between the heads, in tokens.
void SelfCache::copy_row(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                         int64_t tokens) const {
  for (int64_t head = 0; head < shape_.heads; ++head) {
    std::memcpy(to + head * to_stride * shape_.head_size,
                from + head * from_stride * shape_.head_size,
                static_cast<size_t>(tokens * shape_.head_size) * sizeof(float));
  }
}

float* SelfCache::row(const Tensor& tensor, int64_t row) const {
  return static_cast<float*>(tensor.data) + row * shape_.heads * capacity_ * shape_.head_size;
}

void SelfCache::rebuild(int64_t capacity, int64_t times, int64_t valid) {
  const Buffer old_memory = std::move(memory_);
  const std::vector<Tensor> old_tensors = std::move(tensors_);
  const int64_t old_capacity = capacity_, old_rows = shape_.rows;
  shape_.rows *= times;
  allocate(capacity);
  const int64_t old_size = shape_.heads * old_capacity * shape_.head_size;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const float* from = static_cast<float*>(old_tensors[i].data);
    for (int64_t r = 0; r < old_rows * times; ++r) {
      copy_row(from + r / times * old_size, old_capacity, row(tensors_[i], r), capacity_, valid);
    }
  }
}

bool SelfCache::reserve(int64_t tokens, int64_t valid) {
  if (tokens <= capacity_) return false;
  rebuild(bucket(tokens, most_), 1, valid);
  return true;
}

void SelfCache::repeat(int64_t times, int64_t valid) {
  if (times > 1) rebuild(capacity_, times, valid);
}

void SelfCache::append(const std::vector<Tensor>& rows, int64_t position, int64_t tokens) {
  const int64_t size = shape_.head_size;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const float* from = static_cast<float*>(rows[i].data);
    float* to = static_cast<float*>(tensors_[i].data) + position * size;
    // Rows and heads are one axis here: both tensors have them outermost.
    for (int64_t line = 0; line < shape_.rows * shape_.heads; ++line) {
      std::memcpy(to + line * capacity_ * size, from + line * tokens * size,
                  static_cast<size_t>(tokens * size) * sizeof(float));
    }
  }
}

void SelfCache::move(int64_t from, int64_t to, int64_t count, int64_t valid) {
  for (const Tensor& tensor : tensors_) {
    for (int64_t r = 0; r < count; ++r) {
      copy_row(row(tensor, from + r), capacity_, row(tensor, to + r), capacity_, valid);
    }
  }
}

void SelfCache::shrink(int64_t count) {
  shape_.rows -= count;
  for (Tensor& tensor : tensors_) tensor.shape[0] = shape_.rows;
}

void SelfCache::reorder(const std::vector<int64_t>& parents, int64_t valid) {
  const std::vector<RowCopy> copies = plan_row_copies(parents);
  for (const Tensor& tensor : tensors_) {
    const auto place = [&](int64_t r) {
      return r == RowCopy::kSaved ? spare_.as<float>() : row(tensor, r);
    };
    for (const RowCopy& copy : copies) {
      copy_row(place(copy.from), capacity_, place(copy.to), capacity_, valid);
    }
  }
}

}  // namespace switch_runtime
