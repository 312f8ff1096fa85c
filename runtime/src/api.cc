// The C API: checks what only C can get wrong, and lets no exception out.
#include <algorithm>
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

// Sizes of the options structs when they were first released. They only grow: a program that was
// built then passes these, and what it does not know of has its default.
template <typename Options>
constexpr size_t kFirstSize = 0;
template <>
constexpr size_t kFirstSize<switch_load_options> = 40;
template <>
constexpr size_t kFirstSize<switch_generate_options> = 296;
template <>
constexpr size_t kFirstSize<switch_batch_options> = 40;

template <typename Options>
void check_size(size_t size, const char* name) {
  if (size >= kFirstSize<Options> && size <= kLargestOptions) return;
  throw Error(SWITCH_INVALID_ARGUMENT, std::string("size of ") + name + " is " +
                                           std::to_string(size) + ", expected sizeof(" + name +
                                           "), " + std::to_string(sizeof(Options)));
}

// An options struct of the caller's version over `defaults`. One of a later version is accepted if
// what we do not know about is zero, that is, unused.
template <typename Options>
Options read_options(const Options* given, const Options& defaults, const char* name) {
  if (!given) return defaults;
  check_size<Options>(given->size, name);
  const char* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof(Options); i < given->size; ++i) {
    if (bytes[i] == 0) continue;
    throw Error(SWITCH_INVALID_ARGUMENT, std::string(name) + " sets options that this version (" +
                                             SWITCH_VERSION + ") does not know");
  }
  Options read = defaults;
  std::memcpy(&read, given, std::min(given->size, sizeof(Options)));
  return read;
}

// Run `body`, which gives the arrays of a call.
template <typename Body>
switch_arrays* make_arrays(const switch_model* model, Body body) {
  return guard<switch_arrays*>(nullptr, [&] {
    auto result = std::make_unique<switch_arrays>();
    result->arrays = body(checked(model));
    return result.release();
  });
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

int32_t switch_abi_version(void) { return SWITCH_ABI_VERSION; }

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
    check_size<switch_generate_options>(size, "switch_generate_options");
    std::memset(static_cast<void*>(options), 0, size);
    std::memcpy(options, &defaults, std::min(size, sizeof defaults));
    options->size = size;
    return SWITCH_OK;
  });
}

switch_result* switch_generate(switch_model* model, const switch_ids* sources, int64_t batch,
                               const switch_generate_options* options) {
  return guard<switch_result*>(nullptr, [&] {
    const Model& loaded = checked(model);
    const auto read =
        read_options(options, default_options(loaded.config), "switch_generate_options");
    const SearchOptions search = read_search_options(loaded.config, read, batch);
    auto result = std::make_unique<switch_result>();
    result->generated = generate(*loaded.backend, loaded.config, {sources, batch}, search);
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

switch_arrays* switch_encode(switch_model* model, const switch_ids* sources, int64_t batch,
                             int32_t pooling, const switch_batch_options* options) {
  return make_arrays(model, [&](const Model& loaded) {
    if (pooling < SWITCH_POOLING_NONE || pooling > SWITCH_POOLING_LAST) {
      throw Error(SWITCH_INVALID_ARGUMENT,
                  "pooling is " + std::to_string(pooling) + ", expected a switch_pooling");
    }
    const auto read = read_options(options, switch_batch_options{}, "switch_batch_options");
    return encode(*loaded.backend, loaded.config, {sources, batch},
                  static_cast<switch_pooling>(pooling), read_batch_options(read));
  });
}

switch_arrays* switch_score(switch_model* model, const switch_ids* sources,
                            const switch_ids* targets, int64_t batch,
                            const switch_batch_options* options) {
  return make_arrays(model, [&](const Model& loaded) {
    const auto read = read_options(options, switch_batch_options{}, "switch_batch_options");
    return score(*loaded.backend, loaded.config, {sources, batch}, {targets, batch},
                 read_batch_options(read));
  });
}

switch_arrays* switch_forward(switch_model* model, const switch_ids* source,
                              const switch_ids* target) {
  return make_arrays(model, [&](const Model& loaded) {
    if (!source || !target) {
      throw Error(SWITCH_INVALID_ARGUMENT, "source and target must not be NULL");
    }
    return forward(*loaded.backend, loaded.config, *source, *target);
  });
}

switch_arrays* switch_route(switch_model* model, const switch_ids* source,
                            const switch_ids* target) {
  return make_arrays(model, [&](const Model& loaded) {
    if (!source) throw Error(SWITCH_INVALID_ARGUMENT, "source is NULL");
    return route(*loaded.backend, loaded.config, *source, target);
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
