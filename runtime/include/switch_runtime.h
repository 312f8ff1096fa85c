// switch_runtime: decode exported Switch Transformers models, ids in and ids out.
//
//   switch_model* model = switch_model_load("switch-base-8-onnx", NULL);
//   if (model == NULL) fprintf(stderr, "%s\n", switch_last_error());
//   switch_generate_options options;
//   switch_generate_options_init(model, &options, sizeof options);
//   options.num_beams = 4;
//   switch_ids source = {ids, length};
//   switch_result* result = switch_generate(model, &source, 1, &options);
//   const int64_t* tokens = switch_result_ids(result, 0, &count);
//   switch_result_free(result);
//   switch_model_free(model);
//
// Failure: a function that returns a pointer returns NULL; switch_last_error() then says why and
// switch_last_status() which kind. The model stays usable. The library never prints, never ends the
// process and lets no exception out.
//
// Ownership: what a function returns belongs to the caller and is released by the matching *_free
// (NULL is allowed), except where a comment says "owned by". What is passed in is read during the
// call only and stays the caller's. Strings are UTF-8.
//
// Threads: a model may be used by any number of threads at once; weights are shared, results do not
// depend on what other threads do. Load and free are not concurrent with its use. Callbacks run on
// the thread that made the call. switch_last_error() is per thread.
//
// Versions: switch_version() is the library's, switch_abi_version() that of this header's binary
// interface: a program built with SWITCH_ABI_VERSION n runs with every library that says n.
// docs/embedding.md has the policy.
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

#define SWITCH_ABI_VERSION 1

typedef struct switch_model switch_model;    // a loaded model directory
typedef struct switch_result switch_result;  // what one switch_generate call produced
typedef struct switch_arrays switch_arrays;  // a list of named arrays

typedef enum switch_status {
  SWITCH_OK = 0,
  SWITCH_INVALID_ARGUMENT = 1,  // an option or an input is wrong
  SWITCH_INVALID_MODEL = 2,     // the directory is missing, damaged or too new
  SWITCH_MISSING_LIBRARY = 3,   // no usable ONNX Runtime, or no usable plugin library
  SWITCH_OUT_OF_MEMORY = 4,
  SWITCH_CANCELLED = 5,  // by the cancel flag or by a callback
  SWITCH_FAILED = 6,     // anything else, e.g. the engine failed
} switch_status;

typedef enum switch_type { SWITCH_FLOAT32 = 0, SWITCH_INT32 = 1, SWITCH_INT64 = 2 } switch_type;

// transformers' early_stopping: False, True and "never".
typedef enum switch_early_stopping {
  SWITCH_EARLY_STOPPING_FALSE = 0,
  SWITCH_EARLY_STOPPING_TRUE = 1,
  SWITCH_EARLY_STOPPING_NEVER = 2,
} switch_early_stopping;

// What switch_encode makes of the hidden states [tokens, d_model] of a source: all of them, or one
// vector [d_model], over the real tokens only (the end token is one).
typedef enum switch_pooling {
  SWITCH_POOLING_NONE = 0,
  SWITCH_POOLING_MEAN = 1,
  SWITCH_POOLING_MAX = 2,
  SWITCH_POOLING_FIRST = 3,
  SWITCH_POOLING_LAST = 4,
} switch_pooling;

// Some token ids. NULL with count 0 is an empty list.
typedef struct switch_ids {
  const int64_t* ids;
  int64_t count;
} switch_ids;

// What a logits callback sees: the rows that are still decoded, before the next token is chosen.
// Of several sequences of a source those that have ended stay, padded, until all have.
typedef struct switch_step {
  int64_t rows;
  int64_t length;  // tokens so far, start token and prefix included
  int64_t vocab_size;
  const int64_t* ids;      // [rows, length]
  const int64_t* sources;  // [rows] which source each row belongs to
  float* scores;  // [rows, vocab_size] to be changed in place; logits, with beams log-probabilities
} switch_step;

// Callbacks return 0 to go on; anything else ends the call with SWITCH_CANCELLED. They must not
// free the model, and must not let an exception out.
typedef int32_t (*switch_logits_callback)(void* user_data, const switch_step* step);
// `sequence` counts as switch_result_ids does; `token` is -1 when that sequence has ended.
typedef int32_t (*switch_token_callback)(void* user_data, int64_t sequence, int64_t token);
// `done` of `total` sources are finished.
typedef int32_t (*switch_progress_callback)(void* user_data, int64_t done, int64_t total);

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

// transformers' names, defaults and meaning (docs/generation.md has each in words). Always start
// from switch_generate_options_init, which fills in the model's defaults (generation_config.json).
// Lists are read during the call only.
typedef struct switch_generate_options {
  size_t size;

  // Length. Counts are of tokens; the start token and a prefix are counted by *_length only.
  int64_t max_new_tokens;  // -1: max_length decides
  int64_t max_length;      // -1: 20 new tokens
  int64_t min_new_tokens;  // -1: min_length decides
  int64_t min_length;      // eos is not chosen while the sequence is shorter; 0 is off

  // Search: greedy with num_beams 1 and do_sample 0.
  int32_t num_beams;             // 1 to 1024
  int32_t num_return_sequences;  // <= num_beams; up to 1024 when sampling with num_beams 1
  double length_penalty;         // beam score = sum of log-probabilities / length ** length_penalty
  int32_t early_stopping;        // a switch_early_stopping
  int32_t do_sample;             // 0 or 1

  // Sampling, in this order.
  double temperature;  // > 0; 1 is off
  int64_t top_k;       // 0 is off
  double top_p;        // 0 to 1; 1 is off
  double min_p;        // 0 to 1; negative is off
  double typical_p;    // > 0 to 1; 1 is off
  int64_t seed;        // the same seed, sources and options give the same tokens; -1: a new one

  // What may not be chosen, in transformers' order.
  double repetition_penalty;             // > 0; 1 is off
  int64_t no_repeat_ngram_size;          // 0 is off
  int64_t encoder_no_repeat_ngram_size;  // 0 is off
  const switch_ids* bad_words_ids;       // [bad_words_count] sequences, none empty
  int64_t bad_words_count;
  int64_t forced_bos_token_id;       // the first new token, without a prefix; -1 is off
  switch_ids forced_eos_token_id;    // one of them is the last token where max_length is reached
  switch_ids suppress_tokens;        // never chosen
  switch_ids begin_suppress_tokens;  // not chosen first

  // Special tokens.
  switch_ids eos_token_id;         // what ends a sequence; an empty list: nothing does
  int64_t decoder_start_token_id;  // what the decoder reads first

  // What the decoder reads before it decodes: NULL, one list for every source
  // (decoder_input_count 1), or one list per source. The start token is put before all of them
  // unless one of them begins with it. Expert capacity is counted over the whole prefix.
  const switch_ids* decoder_input_ids;
  int64_t decoder_input_count;

  // Sources are sorted by length and decoded in batches that keep both products at most this, or of
  // one source: sources * longest source, sources * sequences * most tokens. 0: 8192.
  int64_t max_batch_tokens;

  // NULL, or a flag read once per step; nonzero ends the call with SWITCH_CANCELLED.
  const volatile int32_t* cancel;
  void* user_data;                   // handed to the callbacks
  switch_logits_callback on_logits;  // NULL, or called once per step, after the options above
                                     // and before those of sampling
  switch_token_callback on_token;    // NULL, or called for every token as it is chosen; not with
                                     // beams, whose tokens are known at the end only
  switch_progress_callback on_progress;  // NULL, or called when sources are finished
} switch_generate_options;

// How switch_encode and switch_score work through many sources. Zero is every default.
typedef struct switch_batch_options {
  size_t size;
  int64_t max_batch_tokens;        // rows * longest of them in one batch; 0: 8192
  const volatile int32_t* cancel;  // as above, read once per batch
  void* user_data;
  switch_progress_callback on_progress;
} switch_batch_options;

// Text of the last failure on this thread, "" if there was none. Owned by the library, valid until
// the next call.
SWITCH_API const char* switch_last_error(void);
SWITCH_API switch_status switch_last_status(void);

// The version of this library, e.g. "0.1.0". Owned by the library.
SWITCH_API const char* switch_version(void);
// SWITCH_ABI_VERSION of the library; compare it with the header's.
SWITCH_API int32_t switch_abi_version(void);

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
// Lists point into the model. Returns SWITCH_OK or SWITCH_INVALID_ARGUMENT.
SWITCH_API switch_status switch_generate_options_init(const switch_model* model,
                                                      switch_generate_options* options,
                                                      size_t size);

// Decode any number of sources: greedy, sampling, or beam search.
//
//   sources  [batch] token ids (with their </s>; no padding)
//   options  NULL means the model's defaults
//
// Results are in the order of the sources and do not depend on how they were batched. A source
// whose sequences have ended leaves its batch.
SWITCH_API switch_result* switch_generate(switch_model* model, const switch_ids* sources,
                                          int64_t batch, const switch_generate_options* options);

// batch * num_return_sequences; the sequences of one source are neighbours, the best first (sampled
// ones in the order of their draws).
SWITCH_API size_t switch_result_count(const switch_result* result);
// Tokens of sequence `index` without start token, prefix, eos and the padding after it (a pad token
// that the model itself chose before the end stays); owned by the result. NULL: no such index.
SWITCH_API const int64_t* switch_result_ids(const switch_result* result, size_t index,
                                            size_t* count);
// Sum of the log-probabilities of the generated tokens, eos included, / their number **
// length_penalty: with beams, of the distribution that the options left (transformers'
// sequences_scores), else of the model's own. -1e9 and less: a beam that nothing finished in, whose
// tokens mean nothing.
SWITCH_API float switch_result_score(const switch_result* result, size_t index);
// The eos token that ended the sequence, or -1 if it was cut at the length limit.
SWITCH_API int64_t switch_result_eos(const switch_result* result, size_t index);
// Decoder steps that were run, over all batches.
SWITCH_API int64_t switch_result_steps(const switch_result* result);
SWITCH_API void switch_result_free(switch_result* result);

// Hidden states of the encoder, one float32 array per source, named "last_hidden_state" [tokens,
// d_model] or, with a switch_pooling, "pooled" [d_model]. Task `encoder` only; a directory of
// another task fails and says which --task to export. `options` NULL means the defaults.
SWITCH_API switch_arrays* switch_encode(switch_model* model, const switch_ids* sources,
                                        int64_t batch, int32_t pooling,
                                        const switch_batch_options* options);

// How probable given targets are (teacher forcing): one float32 array "log_probability" [targets]
// per pair, of every target token given those before it. Expert capacity is counted over all of a
// target, as transformers does. `options` NULL means the defaults; max_batch_tokens is of targets.
SWITCH_API switch_arrays* switch_score(switch_model* model, const switch_ids* sources,
                                       const switch_ids* targets, int64_t batch,
                                       const switch_batch_options* options);

// Teacher forcing for one source and one target: the decoder reads the start token and all but the
// last target token. One float32 array: "logits" [targets, vocab], row t predicts target t; task
// `hidden`: "last_hidden_state" [targets, d_model]. Expert capacity is counted over all targets, as
// transformers does.
SWITCH_API switch_arrays* switch_forward(switch_model* model, const switch_ids* source,
                                         const switch_ids* target);

// Where one source (and, unless `target` is NULL, one target, read as in switch_forward) is routed:
// "encoder.i.expert" int32 [sources], "encoder.i.gate" float32 [sources] for every sparse encoder
// block i, then "decoder.i.expert" and "decoder.i.gate" [targets]. Expert -1: dropped for want of
// capacity.
SWITCH_API switch_arrays* switch_route(switch_model* model, const switch_ids* source,
                                       const switch_ids* target);

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
