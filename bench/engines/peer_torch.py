"""Plain PyTorch: transformers in float32, used as its documentation shows."""

import torch
from protocol import serve, tokens
from transformers import AutoModelForCausalLM


class Engine:
    PER_BATCH = False

    def __init__(self, model, threads, room, batch):
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model.eval()
        self.vocab = self.model.config.vocab_size
        self.cache = None

    def forget(self):
        self.cache = None

    @torch.inference_mode()
    def prefill(self, ids, batch):
        ids = torch.tensor([ids] * batch)
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values

    context = prefill

    def decode(self, n, batch):
        for token in tokens(n, self.vocab, seed=2):
            self.prefill([token], batch)


serve(Engine)
