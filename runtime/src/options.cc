#include "options.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "error.h"

namespace switch_runtime {
namespace {

// A step cannot be interrupted, so it must not take minutes. Nobody searches wider.
constexpr int64_t kMostRowsPerSource = 1024;
constexpr int64_t kDefaultNewTokens = 20;  // transformers' default where nobody names a length
// Of what scores are divided or multiplied by: no score becomes infinite in float32.
constexpr double kLeastFactor = 1e-20;
constexpr double kMostFactor = 1e20;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

switch_ids view(const std::vector<int64_t>& ids) {
  return {ids.data(), static_cast<int64_t>(ids.size())};
}

// Reads the C struct member by member and remembers every problem.
class OptionsReader {
 public:
  OptionsReader(const Config& config, const switch_generate_options& options, int64_t batch)
      : config_(config), given_(options), batch_(batch) {}

  SearchOptions run() {
    read_lengths();
    read_search();
    read_sampling();
    read_processing();
    read_tokens();
    read_prefixes();
    read_listener();
    if (problems_.empty()) check_together();
    if (problems_.empty()) return std::move(search_);
    throw Error(SWITCH_INVALID_ARGUMENT, list_problems("these options cannot be used", problems_));
  }

 private:
  void wrong(const std::string& name, const std::string& found, const std::string& expected) {
    problems_.push_back(name + " is " + found + ", expected " + expected);
  }

  int64_t integer(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return value;
    wrong(name, std::to_string(value),
          high >= kMostTokens ? std::to_string(low) + " or more"
                              : std::to_string(low) + " to " + std::to_string(high));
    return low;
  }

  bool flag(const char* name, int32_t value) {
    if (value != 0 && value != 1) wrong(name, std::to_string(value), "0 or 1");
    return value == 1;
  }

  // `low` itself is allowed only if `closed`.
  double real(const char* name, double value, double low, double high, bool closed = true) {
    const bool fits =
        std::isfinite(value) && value <= high && (closed ? value >= low : value > low);
    if (fits) return value;
    const std::string limit = (closed ? "at least " : "more than ") + number(low);
    wrong(name, number(value),
          high == std::numeric_limits<double>::max() ? "a finite number, " + limit
                                                     : limit + ", at most " + number(high));
    return value;
  }

  // A number of tokens, where -1 leaves it to another option.
  int64_t length(const char* name, int64_t value, int64_t low, const char* expected) {
    if (value == -1 || (value >= low && value <= kMostTokens)) return value;
    wrong(name, std::to_string(value), expected);
    return -1;
  }

  std::vector<int64_t> ids(const std::string& name, const switch_ids& list) {
    if (list.count < 0 || (list.count > 0 && !list.ids)) {
      problems_.push_back(name + " has " + std::to_string(list.count) + " tokens at " +
                          (list.ids ? "an address" : "NULL") + ", expected a list");
      return {};
    }
    for (int64_t i = 0; i < list.count; ++i) {
      if (list.ids[i] >= 0 && list.ids[i] < config_.vocab_size) continue;
      problems_.push_back(name + " holds " + std::to_string(list.ids[i]) +
                          ", expected ids from 0 to " + std::to_string(config_.vocab_size - 1));
      break;
    }
    return std::vector<int64_t>(list.ids, list.ids + list.count);
  }

  void read_lengths() {
    search_.max_new_tokens = length("max_new_tokens", given_.max_new_tokens, 1, "1 or more, or -1");
    search_.max_length =
        length("max_length", given_.max_length, 2, "2 or more (it counts the start token), or -1");
    search_.min_new_tokens = length("min_new_tokens", given_.min_new_tokens, 0, "0 or more, or -1");
    search_.min_length = integer("min_length", given_.min_length, 0, kMostTokens);
    search_.max_batch_tokens = integer("max_batch_tokens", given_.max_batch_tokens, 0, kMostTokens);
    if (search_.max_batch_tokens == 0) search_.max_batch_tokens = kDefaultBatchTokens;
  }

  void read_search() {
    search_.num_beams = integer("num_beams", given_.num_beams, 1, kMostRowsPerSource);
    search_.num_return_sequences =
        integer("num_return_sequences", given_.num_return_sequences, 1, kMostRowsPerSource);
    search_.length_penalty = real("length_penalty", given_.length_penalty, -1e9, 1e9);
    if (given_.early_stopping < SWITCH_EARLY_STOPPING_FALSE ||
        given_.early_stopping > SWITCH_EARLY_STOPPING_NEVER) {
      wrong("early_stopping", std::to_string(given_.early_stopping),
            "0 (false), 1 (true) or 2 (never)");
    } else {
      search_.early_stopping = static_cast<switch_early_stopping>(given_.early_stopping);
    }
    search_.do_sample = flag("do_sample", given_.do_sample);
    const bool several = search_.num_beams > 1 || !search_.do_sample;
    if (several && search_.num_return_sequences > search_.num_beams) {
      wrong("num_return_sequences", std::to_string(search_.num_return_sequences),
            "at most num_beams (" + std::to_string(search_.num_beams) + "), or do_sample");
    }
  }

  void read_sampling() {
    search_.temperature = real("temperature", given_.temperature, kLeastFactor, kMostFactor);
    search_.top_k = integer("top_k", given_.top_k, 0, kMostTokens);
    search_.top_p = real("top_p", given_.top_p, 0, 1);
    search_.min_p = given_.min_p < 0 ? -1 : real("min_p", given_.min_p, 0, 1);
    search_.typical_p = real("typical_p", given_.typical_p, 0, 1, false);
    const int64_t seed = integer("seed", given_.seed, -1, INT64_MAX);
    search_.seed = static_cast<uint64_t>(seed);
    if (seed == -1 && search_.do_sample) {
      std::random_device device;
      search_.seed = (uint64_t{device()} << 32) | device();
    }
  }

  void read_processing() {
    search_.repetition_penalty =
        real("repetition_penalty", given_.repetition_penalty, kLeastFactor, kMostFactor);
    search_.no_repeat_ngram_size =
        integer("no_repeat_ngram_size", given_.no_repeat_ngram_size, 0, kMostTokens);
    search_.encoder_no_repeat_ngram_size = integer(
        "encoder_no_repeat_ngram_size", given_.encoder_no_repeat_ngram_size, 0, kMostTokens);
    if (given_.bad_words_count < 0 || (given_.bad_words_count > 0 && !given_.bad_words_ids)) {
      wrong("bad_words_count", std::to_string(given_.bad_words_count),
            "the number of bad_words_ids");
      return;
    }
    for (int64_t i = 0; i < given_.bad_words_count; ++i) {
      const std::string name = "bad_words_ids[" + std::to_string(i) + "]";
      search_.bad_words.push_back(ids(name, given_.bad_words_ids[i]));
      if (given_.bad_words_ids[i].count == 0) problems_.push_back(name + " is empty");
    }
  }

  void read_tokens() {
    const int64_t last = config_.vocab_size - 1;
    search_.forced_bos = integer("forced_bos_token_id", given_.forced_bos_token_id, -1, last);
    search_.forced_eos = ids("forced_eos_token_id", given_.forced_eos_token_id);
    search_.suppress = ids("suppress_tokens", given_.suppress_tokens);
    search_.begin_suppress = ids("begin_suppress_tokens", given_.begin_suppress_tokens);
    search_.eos = ids("eos_token_id", given_.eos_token_id);
    if (given_.eos_token_id.count > kMostEosTokens) {
      wrong("eos_token_id", std::to_string(given_.eos_token_id.count) + " tokens",
            "at most " + std::to_string(kMostEosTokens));
    }
    search_.decoder_start =
        integer("decoder_start_token_id", given_.decoder_start_token_id, 0, last);
  }

  // transformers puts the start token before all prefixes or before none.
  void read_prefixes() {
    const int64_t count = given_.decoder_input_count;
    if (count == 0) return;
    if (!given_.decoder_input_ids) {
      problems_.push_back("decoder_input_ids is NULL, but decoder_input_count is " +
                          std::to_string(count));
      return;
    }
    if (count < 0 || (count != 1 && count != batch_)) {
      wrong("decoder_input_count", std::to_string(count),
            "0, 1 or the number of sources (" + std::to_string(batch_) + ")");
      return;
    }
    bool prepend = true;
    for (int64_t i = 0; i < count; ++i) {
      const std::string name = "decoder_input_ids[" + std::to_string(i) + "]";
      search_.prefixes.push_back(ids(name, given_.decoder_input_ids[i]));
      const auto& prefix = search_.prefixes.back();
      prepend &= prefix.empty() || prefix[0] != search_.decoder_start;
    }
    if (prepend) {
      for (auto& prefix : search_.prefixes) prefix.insert(prefix.begin(), search_.decoder_start);
    }
    for (const auto& prefix : search_.prefixes) {
      if (prefix.empty()) problems_.push_back("decoder_input_ids holds an empty list");
    }
  }

  void read_listener() {
    search_.listener = {given_.cancel, given_.user_data, given_.on_logits, given_.on_token,
                        given_.on_progress};
    if (given_.on_token && search_.num_beams > 1) {
      wrong("num_beams", std::to_string(search_.num_beams),
            "1 with on_token: the tokens of beams are known at the end only");
    }
  }

  // What only several options together can get wrong.
  void check_together() {
    const int64_t candidates = search_.candidates_per_beam();
    if (search_.num_beams > 1 && candidates > config_.vocab_size) {
      problems_.push_back("beam search keeps " + std::to_string(candidates) +
                          " candidates per beam, the vocabulary has only " +
                          std::to_string(config_.vocab_size) + " tokens; use num_beams 1");
    }
    const auto count = static_cast<int64_t>(search_.prefixes.size());
    for (int64_t i = 0; i < std::max<int64_t>(1, count); ++i) {
      const auto prefix = static_cast<int64_t>(search_.prefix_of(i).size());
      if (search_.length_limit(prefix) > prefix) continue;
      wrong("max_length", std::to_string(search_.max_length),
            "more than the " + std::to_string(prefix) + " tokens that the decoder is given");
      break;
    }
  }

  const Config& config_;
  const switch_generate_options& given_;
  const int64_t batch_;
  SearchOptions search_;
  std::vector<std::string> problems_;
};

}  // namespace

bool SearchOptions::is_eos(int64_t token) const {
  return std::find(eos.begin(), eos.end(), token) != eos.end();
}

int64_t SearchOptions::candidates_per_beam() const {
  return std::max<int64_t>(2, 1 + static_cast<int64_t>(eos.size()));
}

std::vector<int64_t> SearchOptions::prefix_of(int64_t source) const {
  if (prefixes.empty()) return {decoder_start};
  return prefixes[prefixes.size() == 1 ? 0 : static_cast<size_t>(source)];
}

int64_t SearchOptions::length_limit(int64_t prefix) const {
  if (max_new_tokens > 0) return prefix + max_new_tokens;
  return max_length > 0 ? max_length : prefix + kDefaultNewTokens;
}

switch_generate_options default_options(const Config& config) {
  const GenerationOptions& defaults = config.generation;
  switch_generate_options options{};
  options.size = sizeof options;
  options.max_new_tokens = defaults.max_new_tokens;
  options.max_length = defaults.max_length;
  options.min_new_tokens = defaults.min_new_tokens;
  options.min_length = defaults.min_length;
  options.num_beams = static_cast<int32_t>(defaults.num_beams);
  options.num_return_sequences = static_cast<int32_t>(defaults.num_return_sequences);
  options.length_penalty = defaults.length_penalty;
  options.early_stopping = defaults.early_stopping;
  options.do_sample = defaults.do_sample;
  options.temperature = defaults.temperature;
  options.top_k = defaults.top_k;
  options.top_p = defaults.top_p;
  options.min_p = defaults.min_p;
  options.typical_p = defaults.typical_p;
  options.seed = -1;
  options.repetition_penalty = defaults.repetition_penalty;
  options.no_repeat_ngram_size = defaults.no_repeat_ngram_size;
  options.encoder_no_repeat_ngram_size = defaults.encoder_no_repeat_ngram_size;
  options.bad_words_ids = config.bad_words.data();
  options.bad_words_count = static_cast<int64_t>(config.bad_words.size());
  options.forced_bos_token_id = defaults.forced_bos;
  options.forced_eos_token_id = view(defaults.forced_eos);
  options.suppress_tokens = view(defaults.suppress);
  options.begin_suppress_tokens = view(defaults.begin_suppress);
  options.eos_token_id = view(defaults.eos);
  options.decoder_start_token_id = defaults.decoder_start;
  return options;
}

SearchOptions read_search_options(const Config& config, const switch_generate_options& options,
                                  int64_t batch) {
  return OptionsReader(config, options, batch).run();
}

}  // namespace switch_runtime
