/* Decode token ids with an exported model from C99: ids in, ids out; no Python, no C++.
 *
 *   embed_c [--beams N] [--stream] DIR ID [ID ...]
 *
 * DIR is a model directory; the IDs are one source, with its </s> (id 1) at the end. Prints the ids
 * of one sequence per line, the best first, without start token and </s>. --stream prints each id
 * as soon as it is chosen. SWITCH_ORT_LIBRARY names libonnxruntime.so where the system has none.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "switch_runtime.h"

struct arguments {
  int64_t beams;
  int stream;
  const char* directory;
  int64_t* ids;
  int64_t count;
};

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

/* Returns 1, or 0 where the arguments make no sense. */
static int read_arguments(int argc, char** argv, struct arguments* found) {
  int next = 1;
  for (; next < argc && strncmp(argv[next], "--", 2) == 0; ++next) {
    if (strcmp(argv[next], "--stream") == 0) {
      found->stream = 1;
    } else if (strcmp(argv[next], "--beams") == 0 && next + 1 < argc) {
      if (!read_number(argv[++next], &found->beams)) return 0;
      /* The library checks the rest; the member has 32 bits. */
      if (found->beams < 0 || found->beams > INT32_MAX) found->beams = 0;
    } else {
      return 0;
    }
  }
  if (argc - next < 2) return 0;
  found->directory = argv[next++];
  found->ids = malloc((size_t)(argc - next) * sizeof *found->ids);
  if (found->ids == NULL) return 0;
  for (; next < argc; ++next) {
    if (!read_number(argv[next], &found->ids[found->count++])) return 0;
  }
  return 1;
}

/* Called for every token; -1 says that the sequence has ended. */
static int32_t print_token(void* user_data, int64_t sequence, int64_t token) {
  int* printed = user_data;
  (void)sequence; /* there is one */
  if (token < 0) return 0;
  printf("%s%" PRId64, (*printed)++ ? " " : "", token);
  fflush(stdout);
  return 0; /* anything else would end the call */
}

static void print_sequences(const switch_result* result) {
  for (size_t i = 0; i < switch_result_count(result); ++i) {
    size_t count = 0;
    const int64_t* ids = switch_result_ids(result, i, &count);
    for (size_t j = 0; j < count; ++j) printf("%s%" PRId64, j ? " " : "", ids[j]);
    printf("\n");
  }
}

static int decode(switch_model* model, const struct arguments* arguments) {
  switch_generate_options options;
  if (switch_generate_options_init(model, &options, sizeof options) != SWITCH_OK) return fail();
  options.num_beams = (int32_t)arguments->beams;
  options.num_return_sequences = (int32_t)arguments->beams;
  int printed = 0;
  if (arguments->stream) {
    options.user_data = &printed;
    options.on_token = print_token;
  }

  const switch_ids source = {arguments->ids, arguments->count};
  switch_result* result = switch_generate(model, &source, 1, &options);
  if (arguments->stream && printed) printf("\n");
  if (result == NULL) return fail();
  if (!arguments->stream) print_sequences(result);
  switch_result_free(result);
  return 0;
}

int main(int argc, char** argv) {
  struct arguments arguments = {1, 0, NULL, NULL, 0};
  int code = 2;
  if (read_arguments(argc, argv, &arguments)) {
    switch_model* model = switch_model_load(arguments.directory, NULL);
    code = model == NULL ? fail() : decode(model, &arguments);
    switch_model_free(model);
  } else {
    fprintf(stderr, "usage: %s [--beams N] [--stream] DIR ID [ID ...]\n", argv[0]);
  }
  free(arguments.ids);
  return code;
}
