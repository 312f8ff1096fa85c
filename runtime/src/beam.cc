// transformers' _beam_search (5.23), with and without sampling. What it keeps as padded matrices of
// token ids is a tree here: a hypothesis is the node of its last token.
#include <algorithm>
#include <cmath>

#include "sampling.h"
#include "search.h"

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

// One of the best continuations of a source in this step, best first (drawn first, if sampling).
struct Continuation {
  int64_t parent;  // beam of this source
  int64_t token;
  int64_t node;
  float score;  // sum of log-probabilities
  bool ends;    // by eos or by the length limit
};

// The search over one source.
struct Hypotheses {
  std::vector<Beam> running;
  std::vector<Beam> finished;  // as many slots as beams, best first
  bool can_improve = true;
  bool at_end = false;  // nothing can be continued
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
  BeamSearch(Decoder& decoder, SearchContext& context)
      : decoder_(decoder),
        context_(context),
        beams_(context.options.num_beams),
        vocab_(context.config.vocab_size),
        kept_(context.options.candidates_per_beam() * beams_),
        hypotheses_(static_cast<size_t>(decoder.items())),
        top_(kept_),
        warpers_(context.options, context.options.candidates_per_beam()),
        parents_(static_cast<size_t>(decoder.rows())) {
    for (Hypotheses& item : hypotheses_) {
      item.running.resize(static_cast<size_t>(beams_));
      item.finished.resize(static_cast<size_t>(beams_));
      // All beams are the same at first: only one of them may be continued.
      item.running[0].score = 0;
    }
  }

  void run() {
    for (int64_t length = 1; decoder_.items() > 0; ++length) step(length);
  }

 private:
  // Choose the token number `length` of every beam.
  void step(int64_t length) {
    context_.options.listener.check_cancelled();
    float* logits = decoder_.step();
    score(logits);
    for (int64_t i = 0; i < decoder_.items(); ++i) {
      Hypotheses& item = hypotheses_[i];
      const auto continuations = best_continuations(i, logits + i * beams_ * vocab_, length);
      update_finished(item, continuations, length);
      update_running(item, continuations, i * beams_);
      update_can_improve(item, length);
      item.at_end = true;
      for (const auto& continuation : continuations) item.at_end &= continuation.ends;
      if (!is_done(item)) continue;
      // The cache of an item that leaves need not be brought into order.
      for (int64_t row = i * beams_; row < (i + 1) * beams_; ++row) parents_[row] = row;
    }
    decoder_.reorder(parents_);
    // From the end: the last item takes the place of one that leaves.
    for (int64_t i = decoder_.items() - 1; i >= 0; --i) {
      if (is_done(hypotheses_[i])) leave(i);
    }
  }

  // Make the logits log-probabilities where something but the choice reads them, and process them.
  void score(float* logits) {
    normalisers_.clear();
    for (int64_t row = 0; row < decoder_.rows(); ++row) {
      normalisers_.push_back(log_softmax(logits + row * vocab_, vocab_));
    }
    if (!context_.processes() && !context_.options.do_sample) return;
    for (int64_t row = 0; row < decoder_.rows(); ++row) {
      float* scores = logits + row * vocab_;
      for (int64_t i = 0; i < vocab_; ++i) scores[i] = normalisers_[row](scores[i]);
      normalisers_[row] = LogSoftmax{0, 0};
    }
    if (context_.processes()) context_.process(logits, histories());
  }

  // What every row has read and been given, prefix included.
  std::vector<std::vector<int64_t>> histories() const {
    std::vector<std::vector<int64_t>> ids;
    for (int64_t i = 0; i < decoder_.items(); ++i) {
      for (const Beam& beam : hypotheses_[i].running) {
        ids.push_back(context_.items()[i].prefix);
        const std::vector<int64_t> chosen = tokens_of(beam);
        ids.back().insert(ids.back().end(), chosen.begin(), chosen.end());
      }
    }
    return ids;
  }

  // The best, or drawn, candidates of an item: score and beam * vocab + token.
  std::vector<Candidate> choose(int64_t i, float* logits, int64_t length) {
    const Hypotheses& item = hypotheses_[i];
    if (!context_.options.do_sample) {
      top_.clear();
      for (int64_t beam = 0; beam < beams_; ++beam) {
        const int64_t first = beam * vocab_;
        top_.add_row(logits + first, vocab_, normalisers_[i * beams_ + beam],
                     item.running[beam].score, first);
      }
      return top_.best();
    }
    std::vector<Candidate> all;
    for (int64_t beam = 0; beam < beams_; ++beam) {
      for (const Candidate& left : warpers_.run(logits + beam * vocab_, vocab_)) {
        all.push_back({left.score + item.running[beam].score, beam * vocab_ + left.index});
      }
    }
    const Draw draw = {context_.items()[i].source, length - 1, 0};
    auto drawn = draw_several(all, static_cast<size_t>(kept_), context_.options.seed, draw);
    // Too few: impossible ones take part, as in transformers, and lose against everything.
    while (drawn.size() < static_cast<size_t>(kept_)) drawn.push_back({-INFINITY, 0});
    return drawn;
  }

  std::vector<Continuation> best_continuations(int64_t i, float* logits, int64_t length) {
    const Hypotheses& item = hypotheses_[i];
    std::vector<Continuation> continuations;
    for (const Candidate& candidate : choose(i, logits, length)) {
      const int64_t parent = candidate.index / vocab_, token = candidate.index % vocab_;
      const bool ends = context_.options.is_eos(token) || length == context_.lengths.most_new();
      const auto node = static_cast<int64_t>(nodes_.size());
      nodes_.push_back({item.running[parent].node, token});
      continuations.push_back({parent, token, node, candidate.score, ends});
    }
    const auto possible = [](const Continuation& c) { return c.score > -INFINITY; };
    const auto finished = [](const Beam& beam) { return beam.finished; };
    // With something finished a dead end is an end: running scores of -inf improve nothing.
    if (std::none_of(continuations.begin(), continuations.end(), possible) &&
        std::none_of(item.finished.begin(), item.finished.end(), finished)) {
      refuse_dead_end(context_.items()[i].source, context_.lengths.prefix + length - 1);
    }
    return continuations;
  }

  // Continue the best that do not end.
  void update_running(Hypotheses& item, const std::vector<Continuation>& continuations,
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
  void update_finished(Hypotheses& item, const std::vector<Continuation>& continuations,
                       int64_t length) {
    const bool closed = is_closed(item);
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
  void update_can_improve(Hypotheses& item, int64_t length) {
    const SearchOptions& options = context_.options;
    const bool assume_longest =
        options.early_stopping == SWITCH_EARLY_STOPPING_NEVER && options.length_penalty > 0;
    const int64_t best_length = assume_longest ? context_.lengths.most_new() : length;
    const float best_possible = item.running[0].score / context_.penalty(best_length);
    const float worst = item.finished.back().score;
    bool improves = false;
    for (const Beam& beam : item.finished) {
      improves |= best_possible > (beam.finished ? worst : kImpossible);
    }
    item.can_improve &= improves;
  }

  // Under early_stopping True enough finished ones are the end.
  bool is_closed(const Hypotheses& item) const {
    return context_.options.early_stopping == SWITCH_EARLY_STOPPING_TRUE &&
           std::all_of(item.finished.begin(), item.finished.end(),
                       [](const Beam& beam) { return beam.finished; });
  }

  // Nothing that happens later can change what is finished.
  bool is_done(const Hypotheses& item) const {
    return !item.can_improve || is_closed(item) || item.at_end;
  }

  void leave(int64_t i) {
    std::vector<Sequence> best;
    for (int64_t rank = 0; rank < context_.options.num_return_sequences; ++rank) {
      best.push_back(unwind(hypotheses_[i].finished[rank]));
    }
    std::swap(hypotheses_[i], hypotheses_.back());
    hypotheses_.pop_back();
    decoder_.drop(i);
    parents_.resize(static_cast<size_t>(decoder_.rows()));
    context_.finish(i, std::move(best));
  }

  std::vector<int64_t> tokens_of(const Beam& beam) const {
    std::vector<int64_t> tokens;
    for (int64_t node = beam.node; node != kNoNode; node = nodes_[node].parent) {
      tokens.push_back(nodes_[node].token);
    }
    std::reverse(tokens.begin(), tokens.end());
    return tokens;
  }

  Sequence unwind(const Beam& beam) const {
    Sequence sequence;
    sequence.score = beam.score;
    sequence.ids = tokens_of(beam);
    if (!sequence.ids.empty() && context_.options.is_eos(sequence.ids.back())) {
      sequence.eos = sequence.ids.back();
      sequence.ids.pop_back();
    }
    return sequence;
  }

  Decoder& decoder_;
  SearchContext& context_;
  const int64_t beams_;
  const int64_t vocab_;
  const int64_t kept_;  // candidates of an item
  std::vector<Hypotheses> hypotheses_;
  std::vector<Node> nodes_;
  std::vector<LogSoftmax> normalisers_;
  TopK top_;
  Warpers warpers_;
  std::vector<int64_t> parents_;
};

}  // namespace

void beam_search(Decoder& decoder, SearchContext& context) { BeamSearch(decoder, context).run(); }

}  // namespace switch_runtime
