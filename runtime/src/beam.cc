// transformers' _beam_search (5.23). What it keeps as padded matrices of token ids is a tree here:
// a hypothesis is the node of its last token.
#include <algorithm>

#include "generate.h"
#include "logits.h"

namespace switch_runtime {
namespace {

// Added, never assigned, as transformers does: the order among impossible candidates stays.
constexpr float kImpossible = -1.0e9f;
constexpr int64_t kNoNode = -1;

struct Node {
  int64_t parent;
  int64_t token;
};

// A running or finished beam of one source.
struct Beam {
  int64_t node = kNoNode;
  float score = kImpossible;
  bool finished = false;
};

// One of the best continuations of a source in this step, best first.
struct Continuation {
  int64_t parent;  // beam of this source
  int64_t token;
  int64_t node;
  float score;  // sum of log-probabilities
  bool ends;    // by eos or by the length limit
};

// The search over one source.
struct Item {
  std::vector<Beam> running;
  std::vector<Beam> finished;  // as many slots as beams, best first
  bool can_improve = true;
};

// Indices of the `count` best scores, the lowest index first on ties.
template <typename Values, typename Score>
std::vector<size_t> best_of(const Values& values, size_t count, Score score) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return score(values[a]) > score(values[b]); });
  order.resize(count);
  return order;
}

class BeamSearch {
 public:
  BeamSearch(Decoder& decoder, const SearchContext& context)
      : decoder_(decoder),
        context_(context),
        beams_(context.options.num_beams),
        vocab_(context.config.vocab_size),
        items_(static_cast<size_t>(decoder.rows() / beams_)),
        top_(std::max<int64_t>(2, 1 + static_cast<int64_t>(context.config.eos.size())) * beams_),
        parents_(static_cast<size_t>(decoder.rows())) {
    for (Item& item : items_) {
      item.running.resize(static_cast<size_t>(beams_));
      item.finished.resize(static_cast<size_t>(beams_));
      // All beams are the same at first: only one of them may be continued.
      item.running[0].score = 0;
    }
  }

  std::vector<Sequence> run() {
    for (int64_t length = 1; !step(length); ++length) decoder_.reorder(parents_);
    std::vector<Sequence> sequences;
    for (const Item& item : items_) {
      for (int64_t i = 0; i < context_.options.num_return_sequences; ++i) {
        sequences.push_back(unwind(item.finished[i]));
      }
    }
    return sequences;
  }

 private:
  // Choose the token number `length` of every beam. True when the whole batch is done.
  bool step(int64_t length) {
    context_.check_cancelled();
    float* logits = decoder_.step();
    bool improvable = false, all_finished = true, all_end = true;
    for (size_t i = 0; i < items_.size(); ++i, logits += beams_ * vocab_) {
      Item& item = items_[i];
      const auto continuations = best_continuations(item, logits, length);
      update_finished(item, continuations, length);
      update_running(item, continuations, static_cast<int64_t>(i) * beams_);
      update_can_improve(item, length);
      improvable |= item.can_improve;
      all_finished &= is_full(item);
      for (const auto& continuation : continuations) all_end &= continuation.ends;
    }
    const bool stop_early =
        all_finished && context_.options.early_stopping == SWITCH_EARLY_STOPPING_TRUE;
    return !improvable || stop_early || all_end;
  }

  std::vector<Continuation> best_continuations(const Item& item, float* logits, int64_t length) {
    top_.clear();
    for (int64_t beam = 0; beam < beams_; ++beam) {
      float* row = logits + beam * vocab_;
      // The processors see log-probabilities: what they forbid still counts in the normaliser.
      const LogSoftmax log_probability = log_softmax(row, vocab_);
      context_.forbid_early_eos(row, length - 1);
      top_.add_row(row, vocab_, log_probability, item.running[beam].score, beam * vocab_);
    }
    std::vector<Continuation> continuations;
    for (const Candidate& candidate : top_.best()) {
      const int64_t parent = candidate.index / vocab_, token = candidate.index % vocab_;
      const bool ends = context_.is_eos(token) || length == context_.options.max_new_tokens;
      const auto node = static_cast<int64_t>(nodes_.size());
      nodes_.push_back({item.running[parent].node, token});
      continuations.push_back({parent, token, node, candidate.score, ends});
    }
    return continuations;
  }

  // Continue the best that do not end.
  void update_running(Item& item, const std::vector<Continuation>& continuations,
                      int64_t first_row) {
    const auto score = [](const Continuation& continuation) {
      return continuation.score + (continuation.ends ? kImpossible : 0.0f);
    };
    const auto chosen = best_of(continuations, static_cast<size_t>(beams_), score);
    for (size_t beam = 0; beam < chosen.size(); ++beam) {
      const Continuation& continuation = continuations[chosen[beam]];
      item.running[beam] = {continuation.node, score(continuation), false};
      parents_[first_row + beam] = first_row + continuation.parent;
      decoder_.tokens()[first_row + beam] = continuation.token;
    }
  }

  // Keep the best finished ones of before and now. Only the first num_beams candidates may finish;
  // the others are there so that enough beams go on.
  void update_finished(Item& item, const std::vector<Continuation>& continuations, int64_t length) {
    const bool closed =
        is_full(item) && context_.options.early_stopping == SWITCH_EARLY_STOPPING_TRUE;
    const float penalty = context_.penalty(length);
    std::vector<Beam> merged = item.finished;
    for (size_t i = 0; i < continuations.size(); ++i) {
      const Continuation& continuation = continuations[i];
      const bool ends = continuation.ends && i < static_cast<size_t>(beams_);
      float score = continuation.score / penalty;
      if (closed) score += kImpossible;
      if (!item.can_improve) score += kImpossible;
      if (!ends) score += kImpossible;
      merged.push_back({continuation.node, score, ends});
    }
    const auto chosen =
        best_of(merged, static_cast<size_t>(beams_), [](const Beam& beam) { return beam.score; });
    for (size_t i = 0; i < chosen.size(); ++i) item.finished[i] = merged[chosen[i]];
  }

  // transformers' _check_early_stop_heuristic: could a running beam still beat a finished one?
  void update_can_improve(Item& item, int64_t length) {
    const SearchOptions& options = context_.options;
    const bool assume_longest =
        options.early_stopping == SWITCH_EARLY_STOPPING_NEVER && options.length_penalty > 0;
    const int64_t best_length = assume_longest ? options.max_new_tokens : length;
    const float best_possible = item.running[0].score / context_.penalty(best_length);
    const float worst = item.finished.back().score;
    bool improves = false;
    for (const Beam& beam : item.finished) {
      improves |= best_possible > (beam.finished ? worst : kImpossible);
    }
    item.can_improve &= improves;
  }

  static bool is_full(const Item& item) {
    return std::all_of(item.finished.begin(), item.finished.end(),
                       [](const Beam& beam) { return beam.finished; });
  }

  Sequence unwind(const Beam& beam) const {
    Sequence sequence;
    sequence.score = beam.score;
    for (int64_t node = beam.node; node != kNoNode; node = nodes_[node].parent) {
      sequence.ids.push_back(nodes_[node].token);
    }
    std::reverse(sequence.ids.begin(), sequence.ids.end());
    if (!sequence.ids.empty() && context_.is_eos(sequence.ids.back())) {
      sequence.eos = sequence.ids.back();
      sequence.ids.pop_back();
    }
    return sequence;
  }

  Decoder& decoder_;
  const SearchContext& context_;
  const int64_t beams_;
  const int64_t vocab_;
  std::vector<Item> items_;
  std::vector<Node> nodes_;
  TopK top_;
  std::vector<int64_t> parents_;
};

}  // namespace

std::vector<Sequence> beam_search(Decoder& decoder, const SearchContext& context) {
  return BeamSearch(decoder, context).run();
}

}  // namespace switch_runtime
