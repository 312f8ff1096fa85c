// transformers' _sample with do_sample=False.
#include "generate.h"
#include "logits.h"

namespace switch_runtime {

std::vector<Sequence> greedy_search(Decoder& decoder, const SearchContext& context) {
  const Config& config = context.config;
  const int64_t rows = decoder.rows();
  std::vector<Sequence> sequences(static_cast<size_t>(rows));
  std::vector<char> finished(static_cast<size_t>(rows), 0);
  int64_t unfinished = rows;

  for (int64_t generated = 0; unfinished > 0 && generated < context.options.max_new_tokens;
       ++generated) {
    context.check_cancelled();
    float* logits = decoder.step();
    for (int64_t row = 0; row < rows; ++row, logits += config.vocab_size) {
      if (finished[row]) continue;
      Sequence& sequence = sequences[row];
      // Of the model's own distribution, as in beam search: min_new_tokens does not renormalise.
      const LogSoftmax log_probability = log_softmax(logits, config.vocab_size);
      context.forbid_early_eos(logits, generated);
      const int64_t token = argmax(logits, config.vocab_size);
      sequence.score += log_probability(logits[token]);
      decoder.tokens()[row] = token;
      if (!context.is_eos(token)) {
        sequence.ids.push_back(token);
        continue;
      }
      sequence.eos = token;
      sequence.score /= context.penalty(generated + 1);
      finished[row] = 1;
      --unfinished;
    }
    // A finished row is fed padding until the whole batch is done.
    for (int64_t row = 0; row < rows; ++row) {
      if (finished[row]) decoder.tokens()[row] = config.pad;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (!finished[row]) sequences[row].score /= context.penalty(context.options.max_new_tokens);
  }
  return sequences;
}

}  // namespace switch_runtime
