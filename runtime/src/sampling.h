// transformers' sampling (5.23): which tokens a row may draw from, and the draw.
#ifndef SWITCH_SRC_SAMPLING_H_
#define SWITCH_SRC_SAMPLING_H_

#include <cstdint>
#include <vector>

#include "logits.h"
#include "options.h"
#include "random.h"

namespace switch_runtime {

// temperature, top_k, top_p, min_p, typical_p: in this order, each over what the last one left.
class Warpers {
 public:
  // `keep`: candidates that are left whatever the options say; with beams one more than there are
  // eos tokens, so that a beam can go on.
  Warpers(const SearchOptions& options, int64_t keep) : options_(options), keep_(keep) {}

  // The tokens that are left of scores [count], with their scores, lowest token first. Valid until
  // the next call. Scores are divided by the temperature in place.
  const std::vector<Candidate>& run(float* scores, int64_t count);

 private:
  void keep_top_k(const float* scores, int64_t count);
  void keep_top_p();
  void keep_min_p();
  void keep_typical();

  const SearchOptions& options_;
  const int64_t keep_;
  std::vector<Candidate> left_;
  std::vector<Candidate> sorted_;
};

// The index in `candidates` of one draw with probability softmax(score).
size_t draw_one(const std::vector<Candidate>& candidates, double uniform);

// `count` of the candidates, drawn one after the other without putting back, in that order; fewer
// if fewer have a score above -inf.
std::vector<Candidate> draw_several(const std::vector<Candidate>& candidates, size_t count,
                                    uint64_t seed, Draw draw);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_SAMPLING_H_
