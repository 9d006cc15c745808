#!/usr/bin/env python3
"""Makes tests/data/hidden-golden.json: hidden states of the tiny reference models, as transformers computes them.

    pip install torch transformers==5.24 safetensors
    python3 tools/make_hidden_goldens.py

For each model, after the final norm, and for its golden prompt: the last token's state, and the mean over all
tokens. The models differ in their final norms and in what surrounds them.
"""

import json
from pathlib import Path

import torch
import transformers

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MODELS = ["gemma3-text", "granite", "llama-gqa", "olmo2", "qwen3-qknorm", "starcoder2"]


def states(name):
    folder = DATA / "tiny" / name
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompt = json.loads((folder / "golden.json").read_text())["prompt"]
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt])).last_hidden_state[0]
        expected = model(torch.tensor([prompt])).logits[0, -1].argmax()
        assert model.lm_head(hidden)[-1].argmax() == expected, "the norm is missing"
    pooled = {"last": hidden[-1], "mean": hidden.double().mean(0)}
    return {key: [round(float(x), 6) for x in value] for key, value in pooled.items()}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(states(name))}" for name in MODELS]
    (DATA / "hidden-golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
