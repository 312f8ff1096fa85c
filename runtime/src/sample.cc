// transformers' _sample (5.23): greedy, or one draw per row and step.
#include <algorithm>
#include <cmath>

#include "sampling.h"
#include "search.h"

namespace switch_runtime {
namespace {

class Sampling {
 public:
  Sampling(Decoder& decoder, SearchContext& context)
      : decoder_(decoder),
        context_(context),
        each_(context.options.rows_per_source()),
        vocab_(context.config.vocab_size),
        warpers_(context.options, 1),
        sequences_(static_cast<size_t>(decoder.rows())) {
    for (const Item& item : context.items()) {
      for (int64_t i = 0; i < each_; ++i) history_.push_back(item.prefix);
    }
  }

  void run() {
    while (decoder_.items() > 0) step();
  }

 private:
  void step() {
    context_.options.listener.check_cancelled();
    float* logits = decoder_.step();
    // Of the model's own distribution: what is forbidden still counts in the normaliser.
    normalisers_.clear();
    for (int64_t row = 0; row < decoder_.rows(); ++row) {
      normalisers_.push_back(log_softmax(logits + row * vocab_, vocab_));
    }
    keep_own_logits(logits);
    if (context_.processes()) context_.process(logits, history_);
    for (int64_t row = 0; row < decoder_.rows(); ++row) {
      int64_t token = context_.config.pad;  // what a finished row of an unfinished item reads
      if (!is_finished(row)) {
        token = choose(logits + row * vocab_, row);
        const float logit =
            own_.empty() ? logits[row * vocab_ + token] : own_[row * vocab_ + token];
        take(row, token, normalisers_[row](logit));
      }
      decoder_.tokens()[row] = token;
      history_[row].push_back(token);
    }
    ++new_tokens_;
    // From the end: the last item takes the place of one that leaves.
    for (int64_t item = decoder_.items() - 1; item >= 0; --item) leave_if_finished(item);
  }

  // A copy of the logits where the options will change them, for the scores.
  void keep_own_logits(const float* logits) {
    if (!context_.processes() && !context_.options.do_sample) return;
    own_.assign(logits, logits + decoder_.rows() * vocab_);
  }

  int64_t choose(float* scores, int64_t row) {
    const Item& item = context_.items()[row / each_];
    const auto length = static_cast<int64_t>(history_[row].size());
    if (!context_.options.do_sample) {
      const int64_t token = argmax(scores, vocab_);
      if (scores[token] == -INFINITY) refuse_dead_end(item.source, length);
      return token;
    }
    const std::vector<Candidate>& left = warpers_.run(scores, vocab_);
    if (left.empty()) refuse_dead_end(item.source, length);
    const Draw draw = {item.source, new_tokens_, row % each_};
    return left[draw_one(left, uniform(context_.options.seed, draw))].index;
  }

  // The token of a row is known.
  void take(int64_t row, int64_t token, float log_probability) {
    Sequence& sequence = sequences_[row];
    sequence.score += log_probability;
    const bool ends = context_.options.is_eos(token),
               cut = new_tokens_ + 1 == context_.lengths.most_new();
    if (ends) {
      sequence.eos = token;
    } else {
      sequence.ids.push_back(token);
    }
    if (ends || cut) sequence.score /= context_.penalty(new_tokens_ + 1);
    const Item& item = context_.items()[row / each_];
    const int64_t index = item.source * each_ + row % each_;
    if (!ends) context_.options.listener.token(index, token);
    if (ends || cut) context_.options.listener.token(index, -1);
  }

  bool is_finished(int64_t row) const { return sequences_[row].eos >= 0; }

  void leave_if_finished(int64_t item) {
    const int64_t first = item * each_, last = (decoder_.items() - 1) * each_;
    for (int64_t row = first; row < first + each_; ++row) {
      if (!is_finished(row) && new_tokens_ < context_.lengths.most_new()) return;
    }
    std::vector<Sequence> done;
    for (int64_t i = 0; i < each_; ++i) {
      done.push_back(std::move(sequences_[first + i]));
      std::swap(sequences_[first + i], sequences_[last + i]);
      std::swap(history_[first + i], history_[last + i]);
    }
    sequences_.resize(static_cast<size_t>(last));
    history_.resize(static_cast<size_t>(last));
    decoder_.drop(item);
    context_.finish(item, std::move(done));
  }

  Decoder& decoder_;
  SearchContext& context_;
  const int64_t each_;  // rows of an item
  const int64_t vocab_;
  Warpers warpers_;
  int64_t new_tokens_ = 0;
  std::vector<LogSoftmax> normalisers_;
  std::vector<float> own_;           // the model's own logits, where the options change them
  std::vector<Sequence> sequences_;  // [rows]
  std::vector<std::vector<int64_t>> history_;  // [rows], prefix included
};

}  // namespace

void sample(Decoder& decoder, SearchContext& context) { Sampling(decoder, context).run(); }

}  // namespace switch_runtime
