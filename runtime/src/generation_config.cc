// The checkpoint's generation defaults: `generation` of switch.json, transformers' names.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "config.h"
#include "json_reader.h"

namespace switch_runtime {
namespace {

// Of transformers' options that we do not have, the values that change nothing.
const std::map<std::string, std::vector<Json>>& neutral_values() {
  static const std::map<std::string, std::vector<Json>> values = {
      {"diversity_penalty", {0.0}},       {"encoder_repetition_penalty", {1.0}},
      {"epsilon_cutoff", {0.0}},          {"eta_cutoff", {0.0}},
      {"guidance_scale", {1.0}},          {"low_memory", {false}},
      {"num_beam_groups", {1}},           {"penalty_alpha", {0.0}},
      {"remove_invalid_values", {false}}, {"renormalize_logits", {false}},
      {"token_healing", {false}},         {"use_mtp", {false}},
  };
  return values;
}

// Of how transformers computes or what it returns, and ids that `tokens` holds.
bool says_nothing_about_the_search(const std::string& key) {
  static const char* const keys[] = {
      "assistant_confidence_threshold",
      "assistant_early_exit",
      "assistant_ensemble_weight",
      "assistant_lookbehind",
      "bos_token_id",
      "cache_config",
      "cache_implementation",
      "compile_config",
      "continuous_batching_config",
      "decoder_start_token_id",
      "disable_compile",
      "eos_token_id",
      "is_assistant",
      "max_cache_len",
      "max_matching_ngram_size",
      "num_assistant_tokens",
      "num_assistant_tokens_schedule",
      "output_attentions",
      "output_hidden_states",
      "output_logits",
      "output_scores",
      "pad_token_id",
      "prefill_chunk_size",
      "prompt_lookup_num_tokens",
      "return_dict_in_generate",
      "return_legacy_cache",
      "speculation_type",
      "target_lookbehind",
      "transformers_version",
      "use_cache",
  };
  return key[0] == '_' ||
         std::any_of(std::begin(keys), std::end(keys), [&](const char* k) { return key == k; });
}

class GenerationReader {
 public:
  GenerationReader(const JsonReader& reader, Config& config)
      : reader_(reader), config_(config), options_(config.generation) {}

  void run(const Json& object) {
    for (const auto& [key, value] : object.items()) {
      if (value.is_null() || says_nothing_about_the_search(key)) continue;
      const auto known = readers_.find(key);
      if (known != readers_.end()) {
        known->second(key, value);
      } else if (!is_neutral(key, value)) {
        config_.unknown_generation.push_back(key + " (" + JsonReader::describe(value) + ")");
      }
    }
    for (const auto& word : options_.bad_words) {
      config_.bad_words.push_back({word.data(), static_cast<int64_t>(word.size())});
    }
  }

 private:
  using Read = std::function<void(const std::string&, const Json&)>;

  static bool is_neutral(const std::string& key, const Json& value) {
    const auto found = neutral_values().find(key);
    if (found == neutral_values().end()) return false;
    return std::any_of(found->second.begin(), found->second.end(),
                       [&](const Json& neutral) { return neutral == value; });
  }

  Read integer(int64_t& into, int64_t low, int64_t high) {
    return [&into, low, high, this](const std::string& key, const Json& value) {
      into = reader_.checked(value, key, low, high);
    };
  }

  Read number(double& into) {
    return [&into, this](const std::string& key, const Json& value) {
      if (value.is_number() && std::isfinite(static_cast<float>(value.get<double>()))) {
        into = value.get<double>();
      } else {
        reader_.report(key, "is " + JsonReader::describe(value) + ", expected a number");
      }
    };
  }

  // One token or a list of them.
  Read tokens(std::vector<int64_t>& into) {
    return [&into, this](const std::string& key, const Json& value) { into = list(key, value); };
  }

  std::vector<int64_t> list(const std::string& key, const Json& value) {
    std::vector<int64_t> ids;
    for (const Json& id : value.is_array() ? value : Json::array({value})) {
      ids.push_back(reader_.checked(id, key, 0, last()));
    }
    return ids;
  }

  void read_bad_words(const std::string& key, const Json& value) {
    if (!value.is_array()) {
      reader_.report(key, "is " + JsonReader::describe(value) + ", expected a list of lists");
      return;
    }
    for (const Json& word : value) {
      if (word.is_array() && !word.empty()) {
        options_.bad_words.push_back(list(key, word));
      } else {
        reader_.report(key, "holds " + JsonReader::describe(word) + ", expected lists of tokens");
      }
    }
  }

  void read_early_stopping(const std::string& key, const Json& value) {
    if (value.is_boolean()) {
      options_.early_stopping =
          value.get<bool>() ? SWITCH_EARLY_STOPPING_TRUE : SWITCH_EARLY_STOPPING_FALSE;
    } else if (value == "never") {
      options_.early_stopping = SWITCH_EARLY_STOPPING_NEVER;
    } else {
      reader_.report(key,
                     "is " + JsonReader::describe(value) + ", expected true, false or \"never\"");
    }
  }

  void read_do_sample(const std::string& key, const Json& value) {
    if (value.is_boolean()) {
      options_.do_sample = value.get<bool>();
    } else {
      reader_.report(key, "is " + JsonReader::describe(value) + ", expected true or false");
    }
  }

  int64_t last() const { return std::max<int64_t>(0, config_.vocab_size - 1); }

  const JsonReader& reader_;
  Config& config_;
  GenerationOptions& options_;
  const std::map<std::string, Read> readers_ = {
      {"max_new_tokens", integer(options_.max_new_tokens, 1, kMostTokens)},
      {"max_length", integer(options_.max_length, 2, kMostTokens)},
      {"min_new_tokens", integer(options_.min_new_tokens, 0, kMostTokens)},
      {"min_length", integer(options_.min_length, 0, kMostTokens)},
      {"num_beams", integer(options_.num_beams, 1, INT32_MAX)},
      {"num_return_sequences", integer(options_.num_return_sequences, 1, INT32_MAX)},
      {"top_k", integer(options_.top_k, 0, kMostTokens)},
      {"no_repeat_ngram_size", integer(options_.no_repeat_ngram_size, 0, kMostTokens)},
      {"encoder_no_repeat_ngram_size",
       integer(options_.encoder_no_repeat_ngram_size, 0, kMostTokens)},
      {"forced_bos_token_id", integer(options_.forced_bos, 0, last())},
      {"length_penalty", number(options_.length_penalty)},
      {"temperature", number(options_.temperature)},
      {"top_p", number(options_.top_p)},
      {"min_p", number(options_.min_p)},
      {"typical_p", number(options_.typical_p)},
      {"repetition_penalty", number(options_.repetition_penalty)},
      {"forced_eos_token_id", tokens(options_.forced_eos)},
      {"suppress_tokens", tokens(options_.suppress)},
      {"begin_suppress_tokens", tokens(options_.begin_suppress)},
      {"bad_words_ids", [this](const auto& key, const Json& value) { read_bad_words(key, value); }},
      {"early_stopping",
       [this](const auto& key, const Json& value) { read_early_stopping(key, value); }},
      {"do_sample", [this](const auto& key, const Json& value) { read_do_sample(key, value); }},
  };
};

}  // namespace

void read_generation(const JsonReader& reader, Config& config) {
  GenerationReader(reader, config).run(reader.object());
}

}  // namespace switch_runtime
