// A backend without a model: its logits are a function of the source and of the token history, and
// the history is read back from the self cache. A row that is moved wrongly, lost in growth or
// written at the wrong place changes the logits or breaks a check.
#ifndef SWITCH_TESTS_SCRIPTED_H_
#define SWITCH_TESTS_SCRIPTED_H_

#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend.h"
#include "config.h"
#include "encoder.h"

namespace switch_tests {

struct Sizes {
  int64_t vocab = 6;
  int64_t heads = 2;
  int64_t head_size = 3;
  int64_t layers = 2;
  std::string task = "seq2seq";
};

// A switch.json that is right in every way; lists encoder.onnx, decoder.onnx and weights.bin with
// 3 bytes each.
nlohmann::json make_document(const Sizes& sizes = {});

switch_runtime::Config make_config(const Sizes& sizes = {});

using History = std::vector<int64_t>;  // start token first
using Script = std::function<std::vector<float>(int64_t source, const History& history)>;

// Logits between -3 and 3 that any change of source or history changes.
std::vector<float> hashed_logits(int64_t source, const History& history, int64_t vocab);

Script hashed(int64_t vocab);

// With 40 tokens, so that sequences are of many lengths.
switch_runtime::Config large_vocabulary();

// Sources of one or more tokens; the script knows a source by its first.
struct Input {
  std::vector<std::vector<int64_t>> tokens;
  std::vector<switch_ids> rows;

  explicit Input(std::vector<std::vector<int64_t>> lists) : tokens(std::move(lists)) {
    for (const auto& list : tokens) {
      rows.push_back({list.data(), static_cast<int64_t>(list.size())});
    }
  }
  switch_runtime::TokenLists lists() const {
    return {rows.data(), static_cast<int64_t>(rows.size())};
  }
};

class ScriptedBackend : public switch_runtime::Backend {
 public:
  ScriptedBackend(const switch_runtime::Config& config, Script script)
      : config_(config), script_(std::move(script)) {}

  std::unique_ptr<switch_runtime::BoundGraph> bind(
      switch_runtime::GraphKind graph, const std::vector<switch_runtime::Tensor>& inputs,
      const std::vector<switch_runtime::Tensor>& outputs) override;

  void run_encoder(const std::vector<switch_runtime::Tensor>& inputs,
                   const std::vector<switch_runtime::Tensor>& outputs);
  void run_decoder(const std::vector<switch_runtime::Tensor>& inputs,
                   const std::vector<switch_runtime::Tensor>& outputs);

  std::function<void()> after_step;       // may be empty
  std::vector<std::vector<int64_t>> fed;  // tokens of every decoder run, [rows, steps]
  std::vector<int64_t> capacities;        // of the cache, at every decoder run
  std::vector<int64_t> encoder_ids, encoder_mask;
  int64_t encoder_runs = 0;

 private:
  History read_history(const std::vector<switch_runtime::Tensor>& inputs, int64_t row) const;
  void check_and_mark(const std::vector<switch_runtime::Tensor>& inputs,
                      const std::vector<switch_runtime::Tensor>& outputs, int64_t row,
                      const History& history) const;

  std::mutex mutex_;  // of what is recorded: several threads may share a backend
  const switch_runtime::Config& config_;
  Script script_;
};

}  // namespace switch_tests

#endif  // SWITCH_TESTS_SCRIPTED_H_
