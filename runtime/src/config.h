// switch.json as the runtime needs it: docs/model-directory.md says what the keys mean.
#ifndef SWITCH_SRC_CONFIG_H_
#define SWITCH_SRC_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "switch_runtime.h"
#include "tensor.h"

namespace switch_runtime {

enum class Task { kSeq2Seq, kEncoder, kHidden };

const char* name_of(Task task);

// One axis of a graph's tensor: a number, or a letter that may be any number.
struct Axis {
  std::string letter;  // empty: the axis is `size`
  int64_t size = 0;
};

struct TensorSpec {
  std::string name;
  Type type = Type::kFloat32;
  std::vector<Axis> shape;
};

struct GraphSpec {
  std::string file;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  bool has_output(const std::string& name) const;
};

constexpr int64_t kMostTokens = INT64_MAX / 4;  // of lengths: sums of two stay in 64 bits
constexpr int64_t kMostEosTokens = 256;         // beams keep that many candidates each

// What generation_config.json can say, transformers' names and defaults; -1 where None is allowed.
struct GenerationOptions {
  int64_t max_new_tokens = -1;
  int64_t max_length = -1;
  int64_t min_new_tokens = -1;
  int64_t min_length = 0;
  int64_t num_beams = 1;
  int64_t num_return_sequences = 1;
  double length_penalty = 1.0;
  switch_early_stopping early_stopping = SWITCH_EARLY_STOPPING_FALSE;
  bool do_sample = false;
  double temperature = 1.0;
  int64_t top_k = 50;
  double top_p = 1.0;
  double min_p = -1.0;
  double typical_p = 1.0;
  double repetition_penalty = 1.0;
  int64_t no_repeat_ngram_size = 0;
  int64_t encoder_no_repeat_ngram_size = 0;
  std::vector<std::vector<int64_t>> bad_words;
  int64_t forced_bos = -1;
  std::vector<int64_t> forced_eos;
  std::vector<int64_t> suppress;
  std::vector<int64_t> begin_suppress;
  std::vector<int64_t> eos;   // of the directory's `tokens`
  int64_t decoder_start = 0;  // likewise
};

struct Config {
  Config() = default;
  Config(Config&&) = default;  // never copied: bad_words points into generation
  Config& operator=(Config&&) = default;

  std::string directory;
  std::string document;  // switch.json, normalised
  Task task = Task::kSeq2Seq;
  int64_t vocab_size = 0;
  int64_t d_model = 0;
  int64_t d_kv = 0;
  int64_t d_ff = 0;
  int64_t num_heads = 0;
  int64_t num_layers = 0;
  int64_t num_decoder_layers = 0;
  std::vector<int64_t> sparse_encoder_layers;
  std::vector<int64_t> sparse_decoder_layers;
  int64_t pad = 0;
  GenerationOptions generation;
  std::vector<switch_ids> bad_words;  // of `generation`, as the C API lists them
  // What `generation` says that this version cannot do: a reason for generate to refuse.
  std::vector<std::string> unknown_generation;
  GraphSpec encoder;
  std::optional<GraphSpec> decoder;  // absent for task `encoder`
};

// Read and check DIRECTORY/switch.json and the sizes of the files it lists.
// Throws Error SWITCH_INVALID_MODEL with every problem in one message.
Config read_config(const std::string& directory);

// The same from the text of a switch.json; looks at no file.
Config parse_config(const std::string& text, const std::string& directory);

class JsonReader;

// `generation` of switch.json. What is not known is remembered in the Config, what is wrong is
// reported to the reader.
void read_generation(const JsonReader& reader, Config& config);

// What of docs/model-directory.md the listed tensors of the graphs contradict.
std::vector<std::string> check_contract(const Config& config);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_CONFIG_H_
