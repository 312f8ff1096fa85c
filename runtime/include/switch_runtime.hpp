// C++17 over switch_runtime.h: ownership, exceptions, vectors and callbacks, nothing else. All of
// it is in this header; a program links libswitch_runtime.
//
//   switch_runtime::Model model("switch-base-8-onnx");
//   switch_runtime::GenerateOptions options = model.generate_options();
//   options.num_beams = 4;
//   options.bad_words_ids = {{27, 4}};
//   for (const auto& sequence : model.generate({{37, 512, 1}}, options)) use(sequence.ids);
//
// What the C API reports is thrown as a Failure. What a callback throws ends the call and reaches
// its caller. Names, meanings and thread safety are those of switch_runtime.h.
#ifndef SWITCH_RUNTIME_HPP_
#define SWITCH_RUNTIME_HPP_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "switch_runtime.h"

namespace switch_runtime {

using Ids = std::vector<int64_t>;

class Failure : public std::runtime_error {
 public:
  // The last failure of the C API on this thread.
  Failure() : Failure(switch_last_status(), switch_last_error()) {}
  Failure(switch_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  switch_status status() const { return status_; }

 private:
  switch_status status_;
};

struct LoadOptions : switch_load_options {
  LoadOptions() : switch_load_options() { size = sizeof(switch_load_options); }
};

// switch_generate_options, whose lists are vectors here and whose callbacks are functions; they
// return 0 to go on. Model::generate_options makes one.
struct GenerateOptions : switch_generate_options {
  explicit GenerateOptions(const switch_generate_options& options)
      : switch_generate_options(options),
        bad_words_ids(lists(options.bad_words_ids, options.bad_words_count)),
        forced_eos_token_id(list(options.forced_eos_token_id)),
        suppress_tokens(list(options.suppress_tokens)),
        begin_suppress_tokens(list(options.begin_suppress_tokens)),
        eos_token_id(list(options.eos_token_id)),
        decoder_input_ids(lists(options.decoder_input_ids, options.decoder_input_count)) {}

  std::vector<Ids> bad_words_ids;
  Ids forced_eos_token_id;
  Ids suppress_tokens;
  Ids begin_suppress_tokens;
  Ids eos_token_id;
  std::vector<Ids> decoder_input_ids;
  std::function<int32_t(const switch_step& step)> on_logits;
  std::function<int32_t(int64_t sequence, int64_t token)> on_token;
  std::function<int32_t(int64_t done, int64_t total)> on_progress;

 private:
  static Ids list(const switch_ids& ids) { return Ids(ids.ids, ids.ids + ids.count); }
  static std::vector<Ids> lists(const switch_ids* first, int64_t count) {
    std::vector<Ids> all;
    for (int64_t i = 0; i < count; ++i) all.push_back(list(first[i]));
    return all;
  }
};

struct BatchOptions : switch_batch_options {
  BatchOptions() : switch_batch_options() { size = sizeof(switch_batch_options); }

  std::function<int32_t(int64_t done, int64_t total)> on_progress;
};

struct Sequence {
  Ids ids;          // without start token, prefix, eos and padding
  float score = 0;  // see switch_result_score
  int64_t eos = 0;  // what ended it; -1: cut at the length limit
};

// num_return_sequences per source, neighbours, the best first.
struct Result {
  std::vector<Sequence> sequences;
  int64_t steps = 0;  // of the decoder, over all batches

  auto begin() const { return sequences.begin(); }
  auto end() const { return sequences.end(); }
  size_t size() const { return sequences.size(); }
  const Sequence& operator[](size_t index) const& { return sequences[index]; }
  Sequence operator[](size_t index) && { return std::move(sequences[index]); }
};

// One array of an `Arrays`, which owns it.
class Array {
 public:
  Array(const switch_arrays* arrays, size_t index) : arrays_(arrays), index_(index) {}

  std::string_view name() const { return switch_arrays_name(arrays_, index_); }
  switch_type type() const { return switch_arrays_type(arrays_, index_); }
  std::vector<int64_t> shape() const {
    size_t rank = 0;
    const int64_t* first = switch_arrays_shape(arrays_, index_, &rank);
    return std::vector<int64_t>(first, first + rank);
  }
  // Number of values.
  size_t size() const {
    size_t values = 1;
    for (const int64_t dimension : shape()) values *= static_cast<size_t>(dimension);
    return values;
  }
  // The values, row-major; T is float, int32_t or int64_t, as type() says.
  template <typename T>
  const T* data() const {
    if (type() != type_of<T>()) {
      throw Failure(SWITCH_INVALID_ARGUMENT,
                    "array " + std::string(name()) + " is of another type");
    }
    return static_cast<const T*>(switch_arrays_data(arrays_, index_));
  }
  template <typename T>
  std::vector<T> values() const {
    return std::vector<T>(data<T>(), data<T>() + size());
  }

 private:
  template <typename T>
  static constexpr switch_type type_of() {
    static_assert(
        std::is_same_v<T, float> || std::is_same_v<T, int32_t> || std::is_same_v<T, int64_t>,
        "arrays hold float, int32_t or int64_t");
    if (std::is_same_v<T, float>) return SWITCH_FLOAT32;
    return std::is_same_v<T, int32_t> ? SWITCH_INT32 : SWITCH_INT64;
  }

  const switch_arrays* arrays_;
  size_t index_;
};

class Arrays {
 public:
  explicit Arrays(switch_arrays* arrays) : arrays_(arrays) {}  // takes it over

  size_t size() const { return switch_arrays_count(arrays_.get()); }
  Array operator[](size_t index) const& { return Array(arrays_.get(), index); }
  Array operator[](size_t index) const&& = delete;  // it would outlive its owner
  // The array of that name; a Failure if there is none.
  Array at(std::string_view name) const& {
    for (size_t i = 0; i < size(); ++i) {
      if ((*this)[i].name() == name) return (*this)[i];
    }
    throw Failure(SWITCH_INVALID_ARGUMENT, "there is no array " + std::string(name));
  }
  Array at(std::string_view name) const&& = delete;

 private:
  struct Free {
    void operator()(switch_arrays* arrays) const { switch_arrays_free(arrays); }
  };

  std::unique_ptr<switch_arrays, Free> arrays_;
};

namespace detail {

// Carries what a callback throws past the C API, through which no exception may go.
class Callbacks {
 public:
  const std::function<int32_t(const switch_step&)>* logits = nullptr;
  const std::function<int32_t(int64_t, int64_t)>* token = nullptr;
  const std::function<int32_t(int64_t, int64_t)>* progress = nullptr;

  static int32_t on_logits(void* self, const switch_step* step) {
    return guarded(self, [step](const Callbacks& calls) { return (*calls.logits)(*step); });
  }
  static int32_t on_token(void* self, int64_t sequence, int64_t token) {
    return guarded(self, [=](const Callbacks& calls) { return (*calls.token)(sequence, token); });
  }
  static int32_t on_progress(void* self, int64_t done, int64_t total) {
    return guarded(self, [=](const Callbacks& calls) { return (*calls.progress)(done, total); });
  }

  // To be called after the C function: throws what a callback threw, or what `returned` lacks.
  void check(bool returned) const {
    if (thrown_) std::rethrow_exception(thrown_);
    if (!returned) throw Failure();
  }

 private:
  template <typename Call>
  static int32_t guarded(void* self, const Call& call) noexcept {
    auto* calls = static_cast<Callbacks*>(self);
    try {
      return call(*calls);
    } catch (...) {
      calls->thrown_ = std::current_exception();
      return 1;
    }
  }

  std::exception_ptr thrown_;
};

inline switch_ids view(const Ids& ids) { return {ids.data(), static_cast<int64_t>(ids.size())}; }

inline std::vector<switch_ids> views(const std::vector<Ids>& lists) {
  std::vector<switch_ids> all;
  all.reserve(lists.size());
  for (const Ids& ids : lists) all.push_back(view(ids));
  return all;
}

inline int64_t count(const std::vector<switch_ids>& lists) {
  return static_cast<int64_t>(lists.size());
}

}  // namespace detail

// A loaded model directory. May be used by any number of threads at once.
class Model {
 public:
  explicit Model(const std::string& directory, const switch_load_options& options = LoadOptions())
      : model_(switch_model_load(directory.c_str(), &options)) {
    if (!model_) throw Failure();
  }

  // What was loaded, as JSON.
  std::string describe() const {
    const char* text = switch_model_describe(get());
    if (!text) throw Failure();
    return text;
  }

  // The model's generation defaults.
  GenerateOptions generate_options() const {
    switch_generate_options options;
    if (switch_generate_options_init(get(), &options, sizeof options) != SWITCH_OK) throw Failure();
    return GenerateOptions(options);
  }

  Result generate(const std::vector<Ids>& sources) const {
    return generate(sources, generate_options());
  }

  Result generate(const std::vector<Ids>& sources, const GenerateOptions& options) const {
    const std::vector<switch_ids> batch = detail::views(sources);
    const std::vector<switch_ids> bad_words = detail::views(options.bad_words_ids);
    const std::vector<switch_ids> prefixes = detail::views(options.decoder_input_ids);
    switch_generate_options c_options = options;
    c_options.bad_words_ids = bad_words.data();
    c_options.bad_words_count = detail::count(bad_words);
    c_options.forced_eos_token_id = detail::view(options.forced_eos_token_id);
    c_options.suppress_tokens = detail::view(options.suppress_tokens);
    c_options.begin_suppress_tokens = detail::view(options.begin_suppress_tokens);
    c_options.eos_token_id = detail::view(options.eos_token_id);
    c_options.decoder_input_ids = prefixes.empty() ? nullptr : prefixes.data();
    c_options.decoder_input_count = detail::count(prefixes);

    detail::Callbacks calls;
    calls.logits = &options.on_logits;
    calls.token = &options.on_token;
    calls.progress = &options.on_progress;
    c_options.user_data = &calls;
    c_options.on_logits = options.on_logits ? detail::Callbacks::on_logits : nullptr;
    c_options.on_token = options.on_token ? detail::Callbacks::on_token : nullptr;
    c_options.on_progress = options.on_progress ? detail::Callbacks::on_progress : nullptr;

    const std::unique_ptr<switch_result, FreeResult> result(
        switch_generate(get(), batch.data(), detail::count(batch), &c_options));
    calls.check(result != nullptr);
    return copy(result.get());
  }

  // One array per source: "last_hidden_state" [tokens, d_model] or "pooled" [d_model].
  Arrays encode(const std::vector<Ids>& sources, switch_pooling pooling = SWITCH_POOLING_NONE,
                const BatchOptions& options = BatchOptions()) const {
    const std::vector<switch_ids> batch = detail::views(sources);
    return batched(options, [&](const switch_batch_options* c_options) {
      return switch_encode(get(), batch.data(), detail::count(batch), pooling, c_options);
    });
  }

  // One array per pair: "log_probability" [target tokens].
  Arrays score(const std::vector<Ids>& sources, const std::vector<Ids>& targets,
               const BatchOptions& options = BatchOptions()) const {
    if (sources.size() != targets.size()) {
      throw Failure(SWITCH_INVALID_ARGUMENT, std::to_string(sources.size()) + " sources, but " +
                                                 std::to_string(targets.size()) +
                                                 " targets; expected one target per source");
    }
    const std::vector<switch_ids> batch = detail::views(sources);
    const std::vector<switch_ids> wanted = detail::views(targets);
    return batched(options, [&](const switch_batch_options* c_options) {
      return switch_score(get(), batch.data(), wanted.data(), detail::count(batch), c_options);
    });
  }

  // One array: "logits" [target tokens, vocab] or, of task `hidden`, "last_hidden_state".
  Arrays forward(const Ids& source, const Ids& target) const {
    const switch_ids c_source = detail::view(source), c_target = detail::view(target);
    return owned(switch_forward(get(), &c_source, &c_target));
  }

  // "encoder.i.expert" and "encoder.i.gate" of every sparse block; with a target also
  // "decoder.i.*".
  Arrays route(const Ids& source) const {
    const switch_ids c_source = detail::view(source);
    return owned(switch_route(get(), &c_source, nullptr));
  }
  Arrays route(const Ids& source, const Ids& target) const {
    const switch_ids c_source = detail::view(source), c_target = detail::view(target);
    return owned(switch_route(get(), &c_source, &c_target));
  }

  // For calls of the C API; owned by this.
  switch_model* get() const { return model_.get(); }

 private:
  struct FreeModel {
    void operator()(switch_model* model) const { switch_model_free(model); }
  };
  struct FreeResult {
    void operator()(switch_result* result) const { switch_result_free(result); }
  };

  static Result copy(const switch_result* result) {
    Result copied;
    copied.steps = switch_result_steps(result);
    for (size_t i = 0; i < switch_result_count(result); ++i) {
      size_t count = 0;
      const int64_t* first = switch_result_ids(result, i, &count);
      copied.sequences.push_back({Ids(first, first + count), switch_result_score(result, i),
                                  switch_result_eos(result, i)});
    }
    return copied;
  }

  static Arrays owned(switch_arrays* arrays) {
    if (!arrays) throw Failure();
    return Arrays(arrays);
  }

  template <typename Call>
  static Arrays batched(const BatchOptions& options, const Call& call) {
    detail::Callbacks calls;
    calls.progress = &options.on_progress;
    switch_batch_options c_options = options;
    c_options.user_data = &calls;
    c_options.on_progress = options.on_progress ? detail::Callbacks::on_progress : nullptr;
    switch_arrays* c_arrays = call(&c_options);
    Arrays arrays(c_arrays);
    calls.check(c_arrays != nullptr);
    return arrays;
  }

  std::unique_ptr<switch_model, FreeModel> model_;
};

}  // namespace switch_runtime

#endif  // SWITCH_RUNTIME_HPP_
