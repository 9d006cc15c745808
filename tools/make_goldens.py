#!/usr/bin/env python3
"""Makes the tiny reference models of tests/data/tiny that have a function below.

    pip install torch transformers safetensors numpy
    python3 tools/make_goldens.py [NAME …]

Each is a random model of one architecture with every trait in use, saved as a Hugging Face folder,
and what transformers computes with it (eager attention, float32): `golden.json` with a prompt, the
24 tokens that greedy decoding appends and the smallest gap between the two largest logits on the
way, `golden.safetensors` with the logits after every token of the prompt.

Random norms and biases matter: a fresh model has ones and zeros, with which much can be wrong
unnoticed. Weights are rounded to bfloat16 and stored so; the reference is computed from the
rounded values.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"
PROMPT, GREEDY, VOCAB = 32, 24, 192
COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)


def gemma2():
    """Norms on both sides, soft caps that bite, windows on every other layer."""
    return transformers.Gemma2Config(**COMMON, head_dim=16, query_pre_attn_scalar=24,
        sliding_window=16, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)


def olmo2():
    """Norms after only; one norm over all queries, one over all keys."""
    return transformers.Olmo2Config(**COMMON, rope_theta=500000.0)


def smollm3():
    """The second layer of every two has no RoPE."""
    return transformers.SmolLM3Config(**COMMON, no_rope_layer_interval=2, tie_word_embeddings=True)


def starcoder2():
    """LayerNorm, no gate, biases everywhere, a window."""
    return transformers.Starcoder2Config(**COMMON, use_bias=True, sliding_window=16,
        norm_epsilon=1e-5, hidden_act="gelu_pytorch_tanh")


def ministral():
    """Windows on the layers that `layer_types` names."""
    return transformers.MinistralConfig(**COMMON, head_dim=16, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"])


def qwen3_yarn():
    """YaRN, which rescales attention too."""
    return transformers.Qwen3Config(**COMMON, head_dim=32, rope_parameters=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=10000.0))


def llama_linear():
    """Positions divided by a factor."""
    return transformers.LlamaConfig(**COMMON, rope_parameters=dict(
        rope_type="linear", factor=4.0, rope_theta=10000.0))


def llama_dynamic():
    """A context of 16 scaled to 64: the room of a session decides (see CAPACITY)."""
    return transformers.LlamaConfig(**{**COMMON, "max_position_embeddings": 16},
        rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0))


def phi3_longrope(original, factors):
    pairs = 64 // 4 * 3 // 4 // 2
    return transformers.Phi3Config(**COMMON, original_max_position_embeddings=original,
        sliding_window=24, rope_parameters=dict(
            rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
            short_factor=[1.0 + 0.05 * i for i in range(pairs)],
            long_factor=[factors + 0.5 * i for i in range(pairs)]))


def phi4_short():
    """Partial rotary and longrope as Phi-4-mini has them, within the original context."""
    return phi3_longrope(128, 2.0)


def phi4_long():
    """The same beyond it: the other divisors."""
    return phi3_longrope(24, 2.0)


def exaone4():
    """Norms after only and of queries and keys; a window, and no RoPE where there is none."""
    return transformers.Exaone4Config(**COMMON, sliding_window=16, sliding_window_pattern=2)


def exaone4_full():
    """Without windows every layer has RoPE, here scaled as Llama 3's."""
    return transformers.Exaone4Config(**COMMON, sliding_window=None, tie_word_embeddings=True,
        layer_types=["full_attention"] * 2, rope_parameters=dict(
            rope_type="llama3", rope_theta=1000000.0, factor=16.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=128))


MODELS = {
    "gemma2": gemma2, "olmo2": olmo2, "smollm3": smollm3, "starcoder2": starcoder2,
    "ministral": ministral, "qwen3-yarn": qwen3_yarn, "llama-linear": llama_linear,
    "llama-dynamic": llama_dynamic, "phi4-short": phi4_short, "phi4-long": phi4_long,
    "exaone4": exaone4, "exaone4-full": exaone4_full,
}
# Room of the session that the logits are those of, where frequencies depend on it.
CAPACITY = {"llama-dynamic": 64, "phi4-short": 128, "phi4-long": 512}


def randomize(model, seed):
    """Outputs about as large as inputs, norms about 1, biases of weight."""
    g = torch.Generator().manual_seed(seed)
    one_plus = "gemma" in model.config.model_type
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "norm" in name and name.endswith("weight"):
            value = (0.0 if one_plus else 1.0) + 0.2 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        else:
            value = noise / p.shape[1] ** 0.5
        p.data = value.to(torch.bfloat16).float()
    return model


def fix_room(model, capacity):
    """Frequencies of a session with room for so many positions, whatever the text's length."""
    rotary = model.model.rotary_emb
    kind = rotary.rope_type
    init = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind]
    frequencies, rotary.attention_scaling = init(model.config, "cpu", seq_len=capacity)
    rotary.rope_type = "default"  # the decorator of `forward` then changes nothing
    rotary.inv_freq = rotary.original_inv_freq = frequencies


def make(name, seed):
    torch.manual_seed(seed)
    config = MODELS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = randomize(model.eval(), seed)
    if name in CAPACITY:
        fix_room(model, CAPACITY[name])
    prompt = [(i * i * 7 + i * 13 + seed) % VOCAB for i in range(PROMPT)]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
        ids, margin = list(prompt), float("inf")
        for _ in range(GREEDY):
            top = model(torch.tensor([ids])).logits[0, -1].topk(2)
            margin = min(margin, float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.save_pretrained(folder)
    seen, weights = set(), {}
    for key, value in model.state_dict().items():
        if value.data_ptr() not in seen:  # tied weights once
            seen.add(value.data_ptr())
            weights[key] = value.to(torch.bfloat16).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"logits": logits.contiguous()}, folder / "golden.safetensors")
    golden = dict(prompt=prompt, greedy=ids[PROMPT:], min_greedy_margin=round(margin, 5),
                  vocab_size=VOCAB)
    if name in CAPACITY:
        golden["capacity"] = CAPACITY[name]
    (folder / "golden.json").write_text(json.dumps(golden))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: margin {margin:.5f}, std {logits.std():.2f}, {size // 1000} kB")
    return margin


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        # A seed whose greedy choices do not hang by a thread.
        next(seed for seed in range(100) if make(name, seed) > 0.002)
