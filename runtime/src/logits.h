// Arithmetic over one row of logits, float32 and in transformers' order.
#ifndef SWITCH_SRC_LOGITS_H_
#define SWITCH_SRC_LOGITS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace switch_runtime {

// log_softmax(x) is (x - max) - log_sum, in that order, as torch computes it.
struct LogSoftmax {
  float max;
  float log_sum;

  float operator()(float logit) const { return (logit - max) - log_sum; }
};

// Throws Error SWITCH_FAILED if the logits hold NaN or +inf, or nothing above -inf.
LogSoftmax log_softmax(const float* logits, int64_t count);

// Index of the largest value, the lowest one on ties.
int64_t argmax(const float* values, int64_t count);

struct Candidate {
  float score;
  int64_t index;
};

// The `size` best of the candidates it is shown in ascending order of index: best first, the lowest
// index first on ties.
class TopK {
 public:
  explicit TopK(int64_t size) : size_(static_cast<size_t>(size)) { best_.reserve(size_ + 1); }

  void clear() { best_.clear(); }

  bool accepts(float score) const { return best_.size() < size_ || score > best_.back().score; }

  void add(Candidate candidate);

  // Add log_softmax(logits) + base for one row, indices from `first` on.
  void add_row(const float* logits, int64_t count, const LogSoftmax& log_softmax, float base,
               int64_t first);

  const std::vector<Candidate>& best() const { return best_; }

 private:
  size_t size_;
  std::vector<Candidate> best_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_LOGITS_H_
