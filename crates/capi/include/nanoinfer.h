/*
 * The C interface of NanoInfer, which runs language models on CPUs.
 *
 * Texts are UTF-8 and end with a zero byte. Requests are JSON objects with the fields of OpenAI's API.
 *
 * A function that fails returns NULL or a negative number, and nanoinfer_error() then says why.
 *
 * Threads: any number of them may use a model at once; their requests share the passes of one engine. An answer
 * belongs to one thread at a time, except for nanoinfer_cancel(). A model is closed, and an answer freed, when no
 * other thread uses it; an answer may outlive its model, and then ends with an error. Do not fork() while a model is
 * open.
 */


#ifndef NANOINFER_H
#define NANOINFER_H

/* Made of crates/capi by cbindgen: NANOINFER_BLESS=1 cargo test -p nanoinfer-capi --test header */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 Version of the binary interface. It changes when a program has to be compiled again.
 */
#define NANOINFER_ABI 1

/*
 An answer while it is generated.
 */
typedef struct NanoinferAnswer NanoinferAnswer;

/*
 An open model.
 */
typedef struct NanoinferModel NanoinferModel;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the binary interface of this library, to be compared with NANOINFER_ABI.
 */
uint32_t nanoinfer_abi(void);

/*
 Why the last call on this thread failed, until the next call on this thread. Empty if none has.
 */
const char *nanoinfer_error(void);

/*
 Opens a model: a .nano file, a GGUF file, a Hugging Face folder, a hub id, or "smollm2". `options` is NULL or a
 JSON object, with: quant, revision, offline, in_memory, threads, ctx, sequences, kv, kv_mb, pass_ms, queue.
 nanoinfer_close() frees it.
 */
NanoinferModel *nanoinfer_open(const char *name,
                               const char *options);

/*
 Closes a model, and ends its answers with an error. Does nothing with NULL.
 */
void nanoinfer_close(NanoinferModel *model);

/*
 Answers a conversation. `request` has the fields of OpenAI's chat completions: {"messages": [...], ...}.
 nanoinfer_free() frees the answer.
 */
NanoinferAnswer *nanoinfer_chat(const NanoinferModel *model,
                                const char *request);

/*
 Continues a text. `request` has the fields of OpenAI's completions: {"prompt": "...", "max_tokens": 100, ...}.
 nanoinfer_free() frees the answer.
 */
NanoinferAnswer *nanoinfer_complete(const NanoinferModel *model,
                                    const char *request);

/*
 Waits for the next piece of an answer's text. Returns 1 with a piece, which may be empty and is valid until the
 next call with this answer; 0 at the end; and -1 if the answer failed.
 */
int32_t nanoinfer_next(NanoinferAnswer *answer,
                       const char **piece);

/*
 All of an answer so far, as a JSON object with: text, reasoning, tool_calls, tokens, finish_reason, stop, seed,
 stats. nanoinfer_string_free() frees it.
 */
char *nanoinfer_result(const NanoinferAnswer *answer);

/*
 Ends an answer early, from any thread. Its thread then finds the end within a twentieth of a second.
 */
void nanoinfer_cancel(const NanoinferAnswer *answer);

/*
 Frees an answer, and cancels it if it has not ended. Does nothing with NULL.
 */
void nanoinfer_free(NanoinferAnswer *answer);

/*
 Writes the tokens of a text, at most `capacity`, and returns how many it has, or -1. With `bos`, they begin with
 the token that begins every prompt, if the model has one; with `special`, names of control tokens are control
 tokens.
 */
int64_t nanoinfer_tokenize(const NanoinferModel *model,
                           const char *content,
                           bool bos,
                           bool special,
                           uint32_t *tokens,
                           size_t capacity);

/*
 The text of tokens, with the names of control tokens. Zero bytes in it become U+FFFD. nanoinfer_string_free()
 frees it.
 */
char *nanoinfer_detokenize(const NanoinferModel *model,
                           const uint32_t *tokens,
                           size_t n);

/*
 Writes the vectors of texts, one after the other, at most `capacity` numbers, and returns how many there are, or
 -1. `request` has the fields of OpenAI's embeddings: {"input": ["...", ...]}.
 */
int64_t nanoinfer_embed(const NanoinferModel *model,
                        const char *request,
                        float *values,
                        size_t capacity);

/*
 Writes the logits after each of `n` tokens, as many for each as the vocabulary has tokens, at most `capacity`
 numbers, and returns how many there are, or -1.
 */
int64_t nanoinfer_logits(const NanoinferModel *model,
                         const uint32_t *tokens,
                         size_t n,
                         float *values,
                         size_t capacity);

/*
 Frees a text that a function returned for it. Does nothing with NULL.
 */
void nanoinfer_string_free(char *string);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NANOINFER_H */
