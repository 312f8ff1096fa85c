// switch_runtime: decode exported Switch Transformers models, ids in and ids out.
//
//   switch_model* model = switch_model_load("switch-base-8-onnx", NULL);
//   switch_generate_options options;
//   switch_generate_options_init(model, &options, sizeof options);
//   options.num_beams = 4;
//   switch_result* result = switch_generate(model, ids, &length, 1, &options);
//   if (result == NULL) fprintf(stderr, "%s\n", switch_last_error());
//   const int64_t* tokens = switch_result_ids(result, 0, &count);
//   switch_result_free(result);
//   switch_model_free(model);
//
// Failure: a function that returns a pointer returns NULL; switch_last_error() then says why and
// switch_last_status() which kind. The model stays usable. The library never prints and never ends
// the process.
//
// Ownership: what a function returns belongs to the caller and is released by the matching *_free
// (NULL is allowed), except where a comment says "owned by". Strings are UTF-8.
//
// Threads: a model may be used by any number of threads at once. Load and free are not concurrent
// with its use.
#ifndef SWITCH_RUNTIME_H_
#define SWITCH_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define SWITCH_API __declspec(dllexport)
#else
#define SWITCH_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct switch_model switch_model;    // a loaded model directory
typedef struct switch_result switch_result;  // what one switch_generate call produced
typedef struct switch_arrays switch_arrays;  // a list of named arrays

typedef enum switch_status {
  SWITCH_OK = 0,
  SWITCH_INVALID_ARGUMENT = 1,  // an option or an input is wrong
  SWITCH_INVALID_MODEL = 2,     // the directory is missing, damaged or too new
  SWITCH_MISSING_LIBRARY = 3,   // no usable ONNX Runtime, or no usable plugin library
  SWITCH_OUT_OF_MEMORY = 4,
  SWITCH_CANCELLED = 5,
  SWITCH_FAILED = 6,  // anything else, e.g. the engine failed
} switch_status;

typedef enum switch_type { SWITCH_FLOAT32 = 0, SWITCH_INT32 = 1, SWITCH_INT64 = 2 } switch_type;

// transformers' early_stopping: False, True and "never".
typedef enum switch_early_stopping {
  SWITCH_EARLY_STOPPING_FALSE = 0,
  SWITCH_EARLY_STOPPING_TRUE = 1,
  SWITCH_EARLY_STOPPING_NEVER = 2,
} switch_early_stopping;

// Every options struct begins with its size, sizeof(the struct), so that later versions can append
// members. A larger one than this version knows is accepted while what it adds is zero.
typedef struct switch_load_options {
  size_t size;
  const char* device;       // "cpu", the only one so far; NULL means "cpu"
  int32_t threads;          // shared by all models of the process; 0: one per available core
  const char* ort_library;  // path of libonnxruntime; NULL: $SWITCH_ORT_LIBRARY, one already
                            // loaded, the system's
  // Path of the operator library. NULL: $SWITCH_PLUGIN_LIBRARY, else libswitch_moe_ort.so beside
  // this library or in the Python package next to its own. "none" (in either place), or found
  // nowhere: the function bodies in the files run, which is slower.
  const char* plugin_library;
} switch_load_options;

// transformers' names, defaults and meaning. Decoding is greedy or beam search; there is no
// sampling yet, and a checkpoint's do_sample is ignored.
typedef struct switch_generate_options {
  size_t size;
  int32_t num_beams;             // 1 (greedy) to 1024
  int32_t num_return_sequences;  // <= num_beams
  int64_t max_new_tokens;        // -1: max_length decides
  int64_t max_length;            // counts the start token; -1: 20 new tokens
  int64_t min_new_tokens;        // eos is not chosen before that many new tokens; 0 is off
  float length_penalty;          // beam score = sum of log-probabilities / length ** length_penalty
  int32_t early_stopping;        // a switch_early_stopping
  // NULL, or a flag read once per step; nonzero ends the call with SWITCH_CANCELLED.
  const volatile int32_t* cancel;
} switch_generate_options;

// Text of the last failure on this thread, "" if there was none. Owned by the library, valid until
// the next call.
SWITCH_API const char* switch_last_error(void);
SWITCH_API switch_status switch_last_status(void);

// The version of this library, e.g. "0.1.0". Owned by the library.
SWITCH_API const char* switch_version(void);

// Load a model directory. `options` NULL means the defaults.
// Checks that every file listed in switch.json is there with the right size; maps weights.bin, does
// not read it.
SWITCH_API switch_model* switch_model_load(const char* directory,
                                           const switch_load_options* options);
SWITCH_API void switch_model_free(switch_model* model);

// What was loaded, as a JSON object: "directory", "device", "threads", "onnxruntime" (version),
// "onnxruntime_library", "plugin_library" (null: the operator's function bodies run), "switch_json"
// (the parsed file). Owned by the model.
SWITCH_API const char* switch_model_describe(const switch_model* model);

// Fill `options` with the model's generation defaults; `size` is sizeof(switch_generate_options).
// Returns SWITCH_OK or SWITCH_INVALID_ARGUMENT.
SWITCH_API switch_status switch_generate_options_init(const switch_model* model,
                                                      switch_generate_options* options,
                                                      size_t size);

// Decode one batch: greedy with num_beams 1, else beam search.
//
//   ids      token ids of all sources, one after another (with their </s>; no padding)
//   lengths  [batch] how many of them belong to each source
//   options  NULL means the model's defaults
SWITCH_API switch_result* switch_generate(switch_model* model, const int64_t* ids,
                                          const int64_t* lengths, int64_t batch,
                                          const switch_generate_options* options);

// batch * num_return_sequences; the sequences of one source are neighbours, the best first.
SWITCH_API size_t switch_result_count(const switch_result* result);
// Tokens of sequence `index` without start token, eos and the padding after it (a pad token that
// the model itself chose before the end stays); owned by the result. NULL: no such index.
SWITCH_API const int64_t* switch_result_ids(const switch_result* result, size_t index,
                                            size_t* count);
// Sum of the log-probabilities of the generated tokens, eos included, / their number **
// length_penalty (transformers' sequences_scores). Greedy has the same score.
SWITCH_API float switch_result_score(const switch_result* result, size_t index);
// The eos token that ended the sequence, or -1 if it was cut at the length limit.
SWITCH_API int64_t switch_result_eos(const switch_result* result, size_t index);
// Decoder steps that were run for the whole batch.
SWITCH_API int64_t switch_result_steps(const switch_result* result);
SWITCH_API void switch_result_free(switch_result* result);

// Hidden states of the encoder: one float32 array [tokens, d_model] per source, named
// "last_hidden_state". Task `encoder` only; a directory of another task fails and says which --task
// to export.
SWITCH_API switch_arrays* switch_encode(switch_model* model, const int64_t* ids,
                                        const int64_t* lengths, int64_t batch);

// Teacher forcing for one source and one target: the decoder reads the start token and all but the
// last target token. One float32 array: "logits" [targets, vocab], row t predicts target t; task
// `hidden`: "last_hidden_state" [targets, d_model]. Expert capacity is counted over all targets, as
// transformers does.
SWITCH_API switch_arrays* switch_forward(switch_model* model, const int64_t* source,
                                         int64_t sources, const int64_t* target, int64_t targets);

// Where one source (and, if `targets` > 0, one target, read as in switch_forward) is routed:
// "encoder.i.expert" int32 [sources], "encoder.i.gate" float32 [sources] for every sparse encoder
// block i, then "decoder.i.expert" and "decoder.i.gate" [targets]. Expert -1: dropped for want of
// capacity.
SWITCH_API switch_arrays* switch_route(switch_model* model, const int64_t* source, int64_t sources,
                                       const int64_t* target, int64_t targets);

SWITCH_API size_t switch_arrays_count(const switch_arrays* arrays);
// Name, shape and data are owned by `arrays`; all are NULL if there is no such index.
SWITCH_API const char* switch_arrays_name(const switch_arrays* arrays, size_t index);
SWITCH_API switch_type switch_arrays_type(const switch_arrays* arrays, size_t index);
SWITCH_API const int64_t* switch_arrays_shape(const switch_arrays* arrays, size_t index,
                                              size_t* rank);
SWITCH_API const void* switch_arrays_data(const switch_arrays* arrays, size_t index);
SWITCH_API void switch_arrays_free(switch_arrays* arrays);

#ifdef __cplusplus
}
#endif

#endif  // SWITCH_RUNTIME_H_
