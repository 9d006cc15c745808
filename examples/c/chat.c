/*
 * Answers a question while it is generated, then shows the tokens of a text.
 *
 *     cargo build --release -p nanoinfer-capi && tools/install_capi.sh /usr/local
 *     cc examples/c/chat.c $(pkg-config --cflags --libs nanoinfer) -o chat && ./chat smollm2
 */
#include <inttypes.h>
#include <nanoinfer.h>
#include <stdio.h>

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, nanoinfer_error());
  return 1;
}

static int chat(const NanoinferModel *model) {
  NanoinferAnswer *answer = nanoinfer_chat(
      model, "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of France?\"}],"
             " \"max_tokens\": 40, \"temperature\": 0, \"seed\": 0}");
  if (!answer) return fail("chat");
  const char *piece;
  int more;
  while ((more = nanoinfer_next(answer, &piece)) > 0) {
    fputs(piece, stdout);
    fflush(stdout);
  }
  puts("");
  if (more < 0) {
    nanoinfer_free(answer);
    return fail("answer");
  }
  char *result = nanoinfer_result(answer);
  nanoinfer_free(answer);
  if (!result) return fail("result");
  puts(result);
  nanoinfer_string_free(result);
  return 0;
}

int main(int argc, char **argv) {
  if (nanoinfer_abi() != NANOINFER_ABI) {
    fputs("the library has another version than the header\n", stderr);
    return 1;
  }
  NanoinferModel *model = nanoinfer_open(argc > 1 ? argv[1] : "smollm2", "{\"ctx\": 512, \"kv_mb\": 64}");
  if (!model) return fail("open");
  int failed = chat(model);

  uint32_t tokens[16];
  int64_t n = nanoinfer_tokenize(model, "Hello, world!", false, false, tokens, 16);
  if (n < 0) failed = fail("tokenize");
  for (int64_t i = 0; i < n && i < 16; i++) printf("%" PRIu32 " ", tokens[i]);
  puts("");

  if (nanoinfer_chat(model, "{\"messages\": 1}")) failed = 1; /* what is wrong is refused, with a sentence */
  printf("%s\n", nanoinfer_error());
  nanoinfer_close(model);
  return failed;
}
