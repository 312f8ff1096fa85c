#include "generate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"
#include "memory.h"

namespace switch_runtime {
namespace {

// A step cannot be interrupted, so it must not take minutes. Nobody searches wider.
constexpr int32_t kMostBeams = 1024;
constexpr int64_t kDefaultNewTokens = 20;  // transformers' default where nobody names a length

int32_t clamp_to_int32(int64_t value) {
  return static_cast<int32_t>(std::min<int64_t>(value, INT32_MAX));
}

// max_new_tokens wins over max_length, which counts the start token.
int64_t new_tokens(const switch_generate_options& options, std::vector<std::string>& problems) {
  const auto wrong = [&](const char* name, int64_t value, const char* expected) {
    problems.push_back(std::string(name) + " is " + std::to_string(value) + ", expected " +
                       expected);
  };
  if (options.max_new_tokens < -1 || options.max_new_tokens == 0) {
    wrong("max_new_tokens", options.max_new_tokens, "1 or more, or -1");
  }
  if (options.max_length < -1 || options.max_length == 0 || options.max_length == 1) {
    wrong("max_length", options.max_length, "2 or more (it counts the start token), or -1");
  }
  if (options.max_new_tokens > 0) return options.max_new_tokens;
  return options.max_length > 1 ? options.max_length - 1 : kDefaultNewTokens;
}

void check_candidates(const Config& config, const SearchOptions& options,
                      std::vector<std::string>& problems) {
  const auto eos = static_cast<int64_t>(config.eos.size());
  const int64_t candidates = std::max<int64_t>(2, 1 + eos);  // per beam
  if (options.num_beams > 1 && candidates > config.vocab_size) {
    problems.push_back("beam search keeps " + std::to_string(candidates) +
                       " candidates per beam, the vocabulary has only " +
                       std::to_string(config.vocab_size) + " tokens; use num_beams 1");
  }
}

void check_beams(const switch_generate_options& options, std::vector<std::string>& problems) {
  if (options.num_beams < 1 || options.num_beams > kMostBeams) {
    problems.push_back("num_beams is " + std::to_string(options.num_beams) + ", expected 1 to " +
                       std::to_string(kMostBeams));
  }
  if (options.num_return_sequences < 1) {
    problems.push_back("num_return_sequences is " + std::to_string(options.num_return_sequences) +
                       ", expected 1 or more");
  } else if (options.num_return_sequences > std::max(1, options.num_beams)) {
    problems.push_back("num_return_sequences is " + std::to_string(options.num_return_sequences) +
                       ", expected at most num_beams (" + std::to_string(options.num_beams) + ")");
  }
  if (options.early_stopping < SWITCH_EARLY_STOPPING_FALSE ||
      options.early_stopping > SWITCH_EARLY_STOPPING_NEVER) {
    problems.push_back("early_stopping is " + std::to_string(options.early_stopping) +
                       ", expected 0 (false), 1 (true) or 2 (never)");
  }
}

void check_demand(const Config& config, const Sources& sources, const SearchOptions& options) {
  // Rows may overflow int64 only for demands that no machine meets.
  const double rows = double(sources.batch) * double(options.num_beams);
  const std::string what = "decoding a batch of " + std::to_string(sources.batch) + " with " +
                           std::to_string(options.num_beams) + " beams and up to " +
                           std::to_string(options.max_new_tokens) + " new tokens";
  const double one_row = decoder_demand(config, {1, 1, options.max_new_tokens, sources.width});
  check_memory(what, rows * one_row, "Lower max_new_tokens or num_beams, or pass fewer sources.");
}

}  // namespace

switch_generate_options default_options(const Config& config) {
  const GenerationDefaults& defaults = config.generation;
  switch_generate_options options{};
  options.size = sizeof options;
  options.num_beams = clamp_to_int32(defaults.num_beams);
  options.num_return_sequences = clamp_to_int32(defaults.num_return_sequences);
  options.max_new_tokens = defaults.max_new_tokens;
  options.max_length = defaults.max_length;
  options.min_new_tokens = defaults.min_new_tokens;
  options.length_penalty = static_cast<float>(defaults.length_penalty);
  options.early_stopping = defaults.early_stopping;
  return options;
}

SearchOptions read_search_options(const Config& config, const switch_generate_options& options) {
  std::vector<std::string> problems;
  SearchOptions search;
  check_beams(options, problems);
  search.num_beams = options.num_beams;
  search.num_return_sequences = options.num_return_sequences;
  search.max_new_tokens = new_tokens(options, problems);
  search.min_new_tokens = options.min_new_tokens;
  if (options.min_new_tokens < 0) {
    problems.push_back("min_new_tokens is " + std::to_string(options.min_new_tokens) +
                       ", expected 0 or more");
  }
  if (!std::isfinite(options.length_penalty)) {
    problems.push_back("length_penalty is not a finite number");
  }
  search.length_penalty = options.length_penalty;
  search.early_stopping = static_cast<switch_early_stopping>(options.early_stopping);
  search.cancel = options.cancel;
  check_candidates(config, search, problems);
  if (!problems.empty()) {
    throw Error(SWITCH_INVALID_ARGUMENT, list_problems("these options cannot be used", problems));
  }
  return search;
}

Generated generate(Backend& backend, const Config& config, const TokenLists& lists,
                   const SearchOptions& options) {
  if (config.task != Task::kSeq2Seq) {
    throw Error(SWITCH_INVALID_ARGUMENT, config.directory + " was exported with --task " +
                                             name_of(config.task) +
                                             ", generate needs --task seq2seq");
  }
  const SearchContext context(config, options);
  context.check_cancelled();
  const Sources sources = read_sources(config, lists);
  check_demand(config, sources, options);
  Decoder decoder(backend, config, sources, sources.batch * options.num_beams,
                  options.max_new_tokens);
  Generated result;
  result.sequences =
      options.num_beams == 1 ? greedy_search(decoder, context) : beam_search(decoder, context);
  result.steps = decoder.steps();
  return result;
}

bool SearchContext::is_eos(int64_t token) const {
  return std::find(config.eos.begin(), config.eos.end(), token) != config.eos.end();
}

float SearchContext::penalty(int64_t length) const {
  return static_cast<float>(std::pow(static_cast<double>(length), options.length_penalty));
}

void SearchContext::check_cancelled() const {
  if (options.cancel && *options.cancel) throw Error(SWITCH_CANCELLED, "cancelled by the caller");
}

void SearchContext::forbid_early_eos(float* logits, int64_t generated) const {
  if (generated >= options.min_new_tokens) return;
  for (int64_t token : config.eos) logits[token] = -std::numeric_limits<float>::infinity();
}

}  // namespace switch_runtime
