/* Provokes every kind of failure through the C API and says what came back. Whatever else is
 * printed, an exception or an exit is the library's fault.
 *
 *   failures DIR
 */
#include <stdio.h>
#include <string.h>
#include <switch_runtime.h>

static const int64_t kIds[] = {24, 64, 201, 34, 1};
static const int64_t kUnknown[] = {24, 100000, 1};
static const switch_ids kSource = {kIds, 5};

/* `returned` is what the call gave: it has to be NULL. */
static void failed(const char* what, const void* returned) {
  const int silent = switch_last_error()[0] == '\0';
  printf("%s: %s, status %d%s\n", what, returned ? "went on" : "failed", (int)switch_last_status(),
         silent ? ", without a word" : "");
}

static int32_t refuse_token(void* user_data, int64_t sequence, int64_t token) {
  (void)user_data, (void)sequence, (void)token;
  return 1;
}

static int32_t refuse_logits(void* user_data, const switch_step* step) {
  (void)user_data;
  return step->rows == 1 ? 1 : 0;
}

static int32_t refuse_progress(void* user_data, int64_t done, int64_t total) {
  (void)user_data;
  return done == 1 && total == 1;
}

static void loading(const char* directory) {
  switch_load_options options = {0};
  failed("load NULL", switch_model_load(NULL, NULL));
  failed("load a missing directory", switch_model_load("/nowhere", NULL));
  failed("load without a size", switch_model_load(directory, &options));
  options.size = sizeof options;
  options.device = "abacus";
  failed("load on an unknown device", switch_model_load(directory, &options));
  options.device = NULL;
  options.ort_library = "/nowhere/libonnxruntime.so";
  failed("load without ONNX Runtime", switch_model_load(directory, &options));
  options.ort_library = NULL;
  options.plugin_library = "/nowhere/libswitch_moe_ort.so";
  failed("load without the named plugin", switch_model_load(directory, &options));
  failed("describe NULL", switch_model_describe(NULL));
}

static void sources(switch_model* model) {
  const switch_ids unknown = {kUnknown, 3}, empty = {NULL, 0}, missing = {NULL, 3},
                   negative = {kIds, -1};
  failed("generate without a model", switch_generate(NULL, &kSource, 1, NULL));
  failed("generate from NULL", switch_generate(model, NULL, 1, NULL));
  failed("generate -1 sources", switch_generate(model, &kSource, -1, NULL));
  failed("generate from an unknown id", switch_generate(model, &unknown, 1, NULL));
  failed("generate from no ids", switch_generate(model, &empty, 1, NULL));
  failed("generate from ids at NULL", switch_generate(model, &missing, 1, NULL));
  failed("generate from -1 ids", switch_generate(model, &negative, 1, NULL));
  failed("encode with another task", switch_encode(model, &kSource, 1, SWITCH_POOLING_MEAN, NULL));
  failed("encode with an unknown pooling", switch_encode(model, &kSource, 1, 9, NULL));
  failed("encode from NULL", switch_encode(model, NULL, 1, SWITCH_POOLING_MEAN, NULL));
  failed("score without targets", switch_score(model, &kSource, NULL, 1, NULL));
  failed("score an unknown id", switch_score(model, &kSource, &unknown, 1, NULL));
  failed("forward without a target", switch_forward(model, &kSource, NULL));
  failed("forward without a source", switch_forward(model, NULL, &kSource));
  failed("route without a source", switch_route(model, NULL, NULL));
  failed("route an unknown id", switch_route(model, &unknown, NULL));
}

static void options_and_callbacks(switch_model* model) {
  switch_generate_options defaults, options;
  const volatile int32_t cancel = 1;
  if (switch_generate_options_init(model, NULL, sizeof defaults) != SWITCH_OK) {
    failed("defaults into NULL", NULL);
  }
  if (switch_generate_options_init(model, &defaults, 8) != SWITCH_OK) {
    failed("defaults of 8 bytes", NULL);
  }
  if (switch_generate_options_init(model, &defaults, sizeof defaults) != SWITCH_OK) return;
  options = defaults;
  options.size = 0;
  failed("options without a size", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.num_beams = 0;
  options.temperature = -1;
  failed("options out of range", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.max_new_tokens = (int64_t)1 << 40;
  failed("more than the memory", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.bad_words_count = 2;
  options.bad_words_ids = NULL;
  failed("a list at NULL", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.on_token = refuse_token;
  failed("on_token that refuses", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.on_logits = refuse_logits;
  failed("on_logits that refuses", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.on_progress = refuse_progress;
  failed("on_progress that refuses", switch_generate(model, &kSource, 1, &options));
  options = defaults;
  options.cancel = &cancel;
  failed("a flag that is set", switch_generate(model, &kSource, 1, &options));

  switch_batch_options batch = {0};
  failed("batch options without a size", switch_score(model, &kSource, &kSource, 1, &batch));
  batch.size = sizeof batch;
  batch.max_batch_tokens = -1;
  failed("batch options out of range", switch_score(model, &kSource, &kSource, 1, &batch));
  batch.max_batch_tokens = 0;
  batch.on_progress = refuse_progress;
  failed("score whose on_progress refuses", switch_score(model, &kSource, &kSource, 1, &batch));
  batch.on_progress = NULL;
  batch.cancel = &cancel;
  failed("score with a flag that is set", switch_score(model, &kSource, &kSource, 1, &batch));
}

/* Programs that were built with more members than this library knows. */
static void later_versions(switch_model* model) {
  struct {
    switch_generate_options known;
    int64_t later;
  } options;
  struct {
    switch_batch_options known;
    int64_t later;
  } batch;
  memset(&batch, 0, sizeof batch);
  batch.known.size = sizeof batch;
  if (switch_generate_options_init(model, &options.known, sizeof options) != SWITCH_OK) {
    failed("defaults of a later version", NULL);
  }
  switch_result* result = switch_generate(model, &kSource, 1, &options.known);
  if (result == NULL) failed("an unused option of a later version", result);
  switch_result_free(result);
  switch_arrays* arrays = switch_score(model, &kSource, &kSource, 1, &batch.known);
  if (arrays == NULL) failed("an unused batch option of a later version", arrays);
  switch_arrays_free(arrays);

  options.later = batch.later = 1;
  failed("an option of a later version", switch_generate(model, &kSource, 1, &options.known));
  failed("a batch option of a later version",
         switch_score(model, &kSource, &kSource, 1, &batch.known));
  options.known.size = (size_t)-1;
  failed("a size that is none", switch_generate(model, &kSource, 1, &options.known));
}

/* After all of that the model does what it did before. */
static void decode(switch_model* model) {
  size_t count = 0;
  switch_result* result = switch_generate(model, &kSource, 1, NULL);
  const int64_t* ids = switch_result_ids(result, 0, &count);
  for (size_t i = 0; i < count; ++i) printf("%s%d", i ? " " : "", (int)ids[i]);
  printf("\n");
  switch_result_free(result);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  loading(argv[1]);
  switch_model* model = switch_model_load(argv[1], NULL);
  if (model == NULL) {
    failed("load", model);
    return 1;
  }
  sources(model);
  options_and_callbacks(model);
  later_versions(model);
  decode(model);
  switch_model_free(model);
  return 0;
}
