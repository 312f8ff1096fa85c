// C++ over switch_runtime.h: ownership and exceptions, nothing else. Header-only.
//
//   switch_runtime::Model model("switch-base-8-onnx");
//   auto options = model.generate_options();
//   options.num_beams = 4;
//   for (const auto& sequence : model.generate({{37, 512, 1}}, options)) use(sequence.ids);
#ifndef SWITCH_RUNTIME_HPP_
#define SWITCH_RUNTIME_HPP_

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "switch_runtime.h"

namespace switch_runtime {

// What the C API reports, as an exception.
class Failure : public std::runtime_error {
 public:
  Failure() : std::runtime_error(switch_last_error()), status_(switch_last_status()) {}

  switch_status status() const { return status_; }

 private:
  switch_status status_;
};

struct Generation {
  std::vector<int64_t> ids;  // without start token, eos and padding
  float score;
  int64_t eos;  // -1: cut at the length limit
};

using Source = std::vector<int64_t>;

class Model {
 public:
  explicit Model(const std::string& directory, const switch_load_options* options = nullptr)
      : model_(switch_model_load(directory.c_str(), options)) {
    if (!model_) throw Failure();
  }

  // The model's generation defaults.
  switch_generate_options generate_options() const {
    switch_generate_options options;
    if (switch_generate_options_init(model_.get(), &options, sizeof options) != SWITCH_OK) {
      throw Failure();
    }
    return options;
  }

  // num_return_sequences per source, neighbours, the best first.
  std::vector<Generation> generate(const std::vector<Source>& sources,
                                   const switch_generate_options& options) const {
    std::vector<int64_t> ids, lengths;
    for (const Source& source : sources) {
      ids.insert(ids.end(), source.begin(), source.end());
      lengths.push_back(static_cast<int64_t>(source.size()));
    }
    const std::unique_ptr<switch_result, FreeResult> result(switch_generate(
        model_.get(), ids.data(), lengths.data(), static_cast<int64_t>(lengths.size()), &options));
    if (!result) throw Failure();
    std::vector<Generation> generations;
    for (size_t i = 0; i < switch_result_count(result.get()); ++i) {
      size_t count = 0;
      const int64_t* first = switch_result_ids(result.get(), i, &count);
      generations.push_back({Source(first, first + count), switch_result_score(result.get(), i),
                             switch_result_eos(result.get(), i)});
    }
    return generations;
  }

  // For what the wrapper does not cover: encode, forward, route, describe.
  switch_model* get() const { return model_.get(); }

 private:
  struct FreeModel {
    void operator()(switch_model* model) const { switch_model_free(model); }
  };
  struct FreeResult {
    void operator()(switch_result* result) const { switch_result_free(result); }
  };

  std::unique_ptr<switch_model, FreeModel> model_;
};

}  // namespace switch_runtime

#endif  // SWITCH_RUNTIME_HPP_
