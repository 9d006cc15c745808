"""llama.cpp through the C interface of llama-cpp-python, driven as by llama-bench."""

import llama_cpp as C
from protocol import serve, tokens

UBATCH = 512


class Engine:
    PER_BATCH = True

    def __init__(self, model, threads, room, batch):
        self.quiet = C.llama_log_callback(lambda *_: None)
        C.llama_log_set(self.quiet, None)
        C.llama_backend_init()
        options = C.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = C.llama_model_load_from_file(model.encode(), options)
        assert self.model, f"{model}: llama.cpp cannot load it"
        options = C.llama_context_default_params()
        options.n_ctx, options.n_seq_max = room * batch + 256, batch
        options.n_batch, options.n_ubatch = 2048, UBATCH
        options.n_threads = options.n_threads_batch = threads
        self.handle = C.llama_init_from_model(self.model, options)
        assert self.handle, "llama.cpp cannot create a context"
        self.memory = C.llama_get_memory(self.handle)
        self.vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))
        self.batch = C.llama_batch_init(UBATCH, 0, 1)
        self.at = 0

    def __del__(self):
        C.llama_batch_free(self.batch)
        C.llama_free(self.handle)
        C.llama_model_free(self.model)

    def forget(self):
        C.llama_memory_clear(self.memory, True)
        self.at = 0

    def run(self, entries):
        """Runs one pass over `entries`: (token, position, sequence, whether logits are requested)."""
        self.batch.n_tokens = len(entries)
        for i, (token, position, sequence, logits) in enumerate(entries):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = logits
        assert C.llama_decode(self.handle, self.batch) == 0, "llama_decode failed"
        C.llama_synchronize(self.handle)

    def prefill(self, ids, batch):
        for sequence in range(batch):
            for start in range(0, len(ids), UBATCH):
                part = list(enumerate(ids[start : start + UBATCH], start))
                self.run([(t, self.at + i, sequence, i == len(ids) - 1) for i, t in part])
        self.at += len(ids)

    context = prefill

    def decode(self, n, batch):
        for token in tokens(n, self.vocab, seed=2):
            self.run([(token, self.at, sequence, True) for sequence in range(batch)])
            self.at += 1


if __name__ == "__main__":
    serve(Engine)
