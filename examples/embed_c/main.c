/* Decode token ids with an exported model from C: no Python, no C++.
 *
 *   SWITCH_ORT_LIBRARY=.../libonnxruntime.so.1 embed_c DIR NUM_BEAMS ID [ID ...]
 *
 * Prints the ids of one sequence per line, the best first, without start token and </s>.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "switch_runtime.h"

static int fail(void) {
  fprintf(stderr, "%s\n", switch_last_error());
  return 1;
}

static int read_number(const char* text, int64_t* number) {
  char* end = NULL;
  errno = 0;
  *number = strtoll(text, &end, 10);
  if (errno == 0 && end != text && *end == '\0') return 1;
  fprintf(stderr, "%s is not a whole number\n", text);
  return 0;
}

static void print_sequences(const switch_result* result) {
  for (size_t i = 0; i < switch_result_count(result); ++i) {
    size_t count = 0;
    const int64_t* ids = switch_result_ids(result, i, &count);
    for (size_t j = 0; j < count; ++j) printf("%s%" PRId64, j ? " " : "", ids[j]);
    printf("\n");
  }
}

static int decode(switch_model* model, int64_t num_beams, const int64_t* ids, int64_t count) {
  switch_generate_options options;
  if (switch_generate_options_init(model, &options, sizeof options) != SWITCH_OK) return fail();
  options.num_beams = (int32_t)num_beams;
  options.num_return_sequences = (int32_t)num_beams;
  switch_result* result = switch_generate(model, ids, &count, 1, &options);
  if (result == NULL) return fail();
  print_sequences(result);
  switch_result_free(result);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s DIR NUM_BEAMS ID [ID ...]\n", argv[0]);
    return 2;
  }
  const int64_t count = argc - 3;
  int64_t num_beams = 0;
  int64_t* ids = malloc((size_t)count * sizeof *ids);
  int readable = ids != NULL && read_number(argv[2], &num_beams);
  for (int64_t i = 0; readable && i < count; ++i) readable = read_number(argv[3 + i], &ids[i]);
  if (readable && (num_beams < 1 || num_beams > INT32_MAX)) {
    fprintf(stderr, "NUM_BEAMS has to be 1 or more\n");
    readable = 0;
  }
  switch_model* model = readable ? switch_model_load(argv[1], NULL) : NULL;
  int code = 2;
  if (readable) code = model ? decode(model, num_beams, ids, count) : fail();
  switch_model_free(model);
  free(ids);
  return code;
}
