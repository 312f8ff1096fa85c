// The C API: checks what only C can get wrong, and lets no exception out.
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "error.h"
#include "generate.h"
#include "model.h"
#include "switch_runtime.h"
#include "teacher.h"

using namespace switch_runtime;

struct switch_model {
  std::unique_ptr<Model> model;
};

struct switch_result {
  Generated generated;
};

struct switch_arrays {
  std::vector<Array> arrays;
};

namespace {

constexpr size_t kLargestOptions = 4096;  // bytes; more is not a size but garbage

thread_local std::string last_error;
thread_local switch_status last_status = SWITCH_OK;

void remember(switch_status status, const char* message) noexcept {
  last_status = status;
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // no memory even for the message
  }
}

// Run `body`; on an exception remember it and return `failed`.
template <typename Result, typename Body>
Result guard(Result failed, Body body) noexcept {
  try {
    return body();
  } catch (const Error& error) {
    remember(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    remember(SWITCH_OUT_OF_MEMORY, "out of memory; pass fewer or shorter sources");
  } catch (const std::length_error&) {
    remember(SWITCH_OUT_OF_MEMORY, "out of memory; pass fewer or shorter sources");
  } catch (const std::exception& error) {
    remember(SWITCH_FAILED, error.what());
  } catch (...) {
    remember(SWITCH_FAILED, "unknown failure");
  }
  return failed;
}

Model& checked(const switch_model* model) {
  if (!model) throw Error(SWITCH_INVALID_ARGUMENT, "model is NULL");
  return *model->model;
}

// An options struct of the caller's version over `defaults`. One of a later version is accepted if
// what we do not know about is zero, that is, unused.
template <typename Options>
Options read_options(const Options* given, const Options& defaults, const char* name) {
  if (!given) return defaults;
  if (given->size < sizeof(Options) || given->size > kLargestOptions) {
    throw Error(SWITCH_INVALID_ARGUMENT, std::string("size of ") + name + " is " +
                                             std::to_string(given->size) + ", expected sizeof(" +
                                             name + "), " + std::to_string(sizeof(Options)));
  }
  const char* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof(Options); i < given->size; ++i) {
    if (bytes[i] == 0) continue;
    throw Error(SWITCH_INVALID_ARGUMENT, std::string(name) + " sets options that this version (" +
                                             SWITCH_VERSION + ") does not know");
  }
  return *given;
}

const Array* find(const switch_arrays* arrays, size_t index) {
  return arrays && index < arrays->arrays.size() ? &arrays->arrays[index] : nullptr;
}

const Sequence* find(const switch_result* result, size_t index) {
  const bool known = result && index < result->generated.sequences.size();
  return known ? &result->generated.sequences[index] : nullptr;
}

}  // namespace

const char* switch_last_error(void) { return last_error.c_str(); }

switch_status switch_last_status(void) { return last_status; }

const char* switch_version(void) { return SWITCH_VERSION; }

switch_model* switch_model_load(const char* directory, const switch_load_options* options) {
  return guard<switch_model*>(nullptr, [&] {
    if (!directory) throw Error(SWITCH_INVALID_ARGUMENT, "directory is NULL");
    const auto read = read_options(options, switch_load_options{}, "switch_load_options");
    auto model = std::make_unique<switch_model>();
    model->model = load_model(directory, read);
    return model.release();
  });
}

void switch_model_free(switch_model* model) { delete model; }

const char* switch_model_describe(const switch_model* model) {
  return guard<const char*>(nullptr, [&] { return checked(model).description.c_str(); });
}

switch_status switch_generate_options_init(const switch_model* model,
                                           switch_generate_options* options, size_t size) {
  return guard(SWITCH_INVALID_ARGUMENT, [&] {
    const auto defaults = default_options(checked(model).config);
    if (!options) throw Error(SWITCH_INVALID_ARGUMENT, "options is NULL");
    if (size < sizeof defaults || size > kLargestOptions) {
      throw Error(SWITCH_INVALID_ARGUMENT, "size is " + std::to_string(size) +
                                               ", expected sizeof(switch_generate_options), " +
                                               std::to_string(sizeof defaults));
    }
    std::memset(static_cast<void*>(options), 0, size);
    *options = defaults;
    options->size = size;
    return SWITCH_OK;
  });
}

switch_result* switch_generate(switch_model* model, const int64_t* ids, const int64_t* lengths,
                               int64_t batch, const switch_generate_options* options) {
  return guard<switch_result*>(nullptr, [&] {
    const Model& loaded = checked(model);
    const auto read =
        read_options(options, default_options(loaded.config), "switch_generate_options");
    const SearchOptions search = read_search_options(loaded.config, read);
    auto result = std::make_unique<switch_result>();
    result->generated = generate(*loaded.backend, loaded.config, {ids, lengths, batch}, search);
    return result.release();
  });
}

size_t switch_result_count(const switch_result* result) {
  return result ? result->generated.sequences.size() : 0;
}

const int64_t* switch_result_ids(const switch_result* result, size_t index, size_t* count) {
  static const int64_t none = 0;  // an empty sequence is not a missing one
  const Sequence* sequence = find(result, index);
  if (count) *count = sequence ? sequence->ids.size() : 0;
  if (!sequence) return nullptr;
  return sequence->ids.empty() ? &none : sequence->ids.data();
}

float switch_result_score(const switch_result* result, size_t index) {
  const Sequence* sequence = find(result, index);
  return sequence ? sequence->score : 0;
}

int64_t switch_result_eos(const switch_result* result, size_t index) {
  const Sequence* sequence = find(result, index);
  return sequence ? sequence->eos : -1;
}

int64_t switch_result_steps(const switch_result* result) {
  return result ? result->generated.steps : 0;
}

void switch_result_free(switch_result* result) { delete result; }

switch_arrays* switch_encode(switch_model* model, const int64_t* ids, const int64_t* lengths,
                             int64_t batch) {
  return guard<switch_arrays*>(nullptr, [&] {
    const Model& loaded = checked(model);
    auto result = std::make_unique<switch_arrays>();
    result->arrays = encode(*loaded.backend, loaded.config, {ids, lengths, batch});
    return result.release();
  });
}

switch_arrays* switch_forward(switch_model* model, const int64_t* source, int64_t sources,
                              const int64_t* target, int64_t targets) {
  return guard<switch_arrays*>(nullptr, [&] {
    const Model& loaded = checked(model);
    auto result = std::make_unique<switch_arrays>();
    result->arrays = forward(*loaded.backend, loaded.config, {source, sources}, {target, targets});
    return result.release();
  });
}

switch_arrays* switch_route(switch_model* model, const int64_t* source, int64_t sources,
                            const int64_t* target, int64_t targets) {
  return guard<switch_arrays*>(nullptr, [&] {
    const Model& loaded = checked(model);
    auto result = std::make_unique<switch_arrays>();
    result->arrays = route(*loaded.backend, loaded.config, {source, sources}, {target, targets});
    return result.release();
  });
}

size_t switch_arrays_count(const switch_arrays* arrays) {
  return arrays ? arrays->arrays.size() : 0;
}

const char* switch_arrays_name(const switch_arrays* arrays, size_t index) {
  const Array* array = find(arrays, index);
  return array ? array->tensor.name.c_str() : nullptr;
}

switch_type switch_arrays_type(const switch_arrays* arrays, size_t index) {
  const Array* array = find(arrays, index);
  if (!array) return SWITCH_FLOAT32;
  switch (array->tensor.type) {
    case Type::kFloat32: return SWITCH_FLOAT32;
    case Type::kInt32: return SWITCH_INT32;
    case Type::kInt64: return SWITCH_INT64;
  }
  return SWITCH_FLOAT32;
}

const int64_t* switch_arrays_shape(const switch_arrays* arrays, size_t index, size_t* rank) {
  const Array* array = find(arrays, index);
  if (rank) *rank = array ? array->tensor.shape.size() : 0;
  return array ? array->tensor.shape.data() : nullptr;
}

const void* switch_arrays_data(const switch_arrays* arrays, size_t index) {
  const Array* array = find(arrays, index);
  return array ? array->tensor.data : nullptr;
}

void switch_arrays_free(switch_arrays* arrays) { delete arrays; }
