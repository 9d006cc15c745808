"""Makes the tiny reference models with experts in tests/data/tiny:

    pip install torch transformers==5.24 safetensors
    python3 tools/make_experts.py mixtral-experts qwen3-experts olmoe-experts qwen3-5-experts qwen3-next

To add a model, add it to MODELS. The output files have the same format as those of make_goldens.py.

If the scores of two experts are nearly equal, a rounding error decides which of them a token uses, and
everything after it differs, so a test with 8-bit weights could not have a bound. Therefore, each token's
embedding points towards some of the experts, and the seed with the clearest decisions is used. The
smallest gap between the scores of the last selected and the first unselected expert, over all tokens
and layers, is recorded.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

import make_goldens

COMMON = dict(
    vocab_size=320, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, tie_word_embeddings=False, attn_implementation="eager",
)
SPARSE = dict(
    vocab_size=192, num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=32,
    head_dim=32, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts_per_tok=2,
)
MODELS = {
    # 6 experts, fewer than a panel has rows; the width is not a multiple of the group size.
    "mixtral-experts": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(
        **COMMON, intermediate_size=40, num_local_experts=6, num_experts_per_tok=2,
        sliding_window=None)),
    # More experts than a panel has rows; none on the first layer; normalized weights.
    "qwen3-experts": lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(
        **COMMON, head_dim=24, intermediate_size=80, moe_intermediate_size=24, num_experts=17,
        num_experts_per_tok=4, mlp_only_layers=[0], norm_topk_prob=True)),
    # Norms over all queries and over all keys of a token; the softmax is over all experts.
    "olmoe-experts": lambda: transformers.OlmoeForCausalLM(transformers.OlmoeConfig(
        **COMMON, intermediate_size=32, num_experts=8, num_experts_per_tok=3)),
    # Experts beside a shared one with a gate, on recurrent layers too; gate and up of all experts in one tensor.
    "qwen3-5-experts": lambda: transformers.Qwen3_5MoeForCausalLM(transformers.Qwen3_5MoeTextConfig(
        **{**COMMON, **SPARSE}, num_experts=6, rope_parameters=make_goldens.QWEN_ROPE)),
    # The same with interleaved projections, and a layer without experts.
    "qwen3-next": lambda: transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(
        **{**COMMON, **SPARSE}, num_experts=6, intermediate_size=80, mlp_only_layers=[0],
        norm_topk_prob=True, rope_parameters=dict(make_goldens.QWEN_ROPE))),
}
PROMPT, GREEDY, SEEDS = 40, 24, 300
LONG = ["qwen3-5-experts", "qwen3-next"]  # with a prompt of more than a block of the cache
OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"


def randomize(model, seed, prompt):
    """Sets random weights, rounded to bfloat16, that keep outputs about as large as inputs. Returns a prompt of
    `prompt` tokens."""
    g = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=g)
    d, k = model.config.hidden_size, model.config.num_experts_per_tok
    n = next(p.shape[0] for name, p in model.named_parameters() if name.endswith("mlp.gate.weight"))
    experts = torch.linalg.qr(random(d, n)).Q.T  # one direction per expert
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                noise = random(p.shape)
                if (value := make_goldens.recurrent_value(name, noise)) is None:
                    value = (0 if make_goldens.is_one_plus(model, name) else 1) + 0.1 * noise
                p.copy_(value)
            elif name.endswith("mlp.gate.weight"):
                p.copy_(experts + 0.02 * random(p.shape))
            elif name.endswith("embed_tokens.weight"):
                chosen = torch.rand(p.shape[0], n, generator=g).topk(k).indices
                p.copy_(0.7 * random(p.shape) + 4 * experts[chosen].sum(1))
            else:
                p.copy_(random(p.shape) * p.shape[-1] ** -0.5)
            p.copy_(p.bfloat16().float())
    return torch.randint(3, model.config.vocab_size, (prompt,), generator=g).tolist()


def watch(model, gaps):
    """Appends the smallest gap of each layer's routing decisions to `gaps`."""
    k = model.config.num_experts_per_tok

    def hook(module, args):
        x = args[0].reshape(-1, args[0].shape[-1])
        scores = torch.nn.functional.linear(x, module.weight).sort(descending=True).values
        gaps.append((scores[:, k - 1] - scores[:, k]).min().item())

    for layer in model.model.layers:
        if hasattr(layer.mlp, "experts"):
            layer.mlp.gate.register_forward_pre_hook(hook)


def run(model, prompt):
    """Logits of the prompt, greedy ids, and the smallest gap between the two largest logits."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
        ids, margin = list(prompt), float("inf")
        for _ in range(GREEDY):
            top = model(torch.tensor([ids])).logits[0, -1].topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
    return logits, ids[len(prompt):], margin


def make(name):
    model = MODELS[name]().float().eval()
    length = make_goldens.LONG_PROMPT if name in LONG else PROMPT
    gaps = []
    watch(model, gaps)
    seeds = []
    for seed in range(SEEDS):
        prompt = randomize(model, seed, length)
        gaps.clear()
        with torch.no_grad():
            model(torch.tensor([prompt]))
        seeds.append((min(gaps), seed))
    for gap, seed in sorted(seeds, reverse=True):
        prompt = randomize(model, seed, length)
        logits, greedy, margin = run(model, prompt)
        if margin > 0.01:  # greedy ids must not depend on the order of summation
            break
    folder = OUT / name
    if name == "qwen3-5-experts":  # saved as published: not one tensor per expert
        model.config.architectures, model.config.dtype = [type(model).__name__], torch.bfloat16
        model.config.save_pretrained(folder)
        weights = {key: w.bfloat16().contiguous() for key, w in model.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({"logits": logits.contiguous()}, folder / "golden.safetensors")
    golden = dict(prompt=prompt, greedy=greedy, min_greedy_margin=margin, seed=seed,
                  min_router_gap=gap)
    (folder / "golden.json").write_text(json.dumps(golden))
    print(name, "seed", seed, "router gap", round(gap, 4), "greedy margin", round(margin, 4),
          "logit std", round(logits.std().item(), 2))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        make(name)
