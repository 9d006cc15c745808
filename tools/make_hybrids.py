#!/usr/bin/env python3
"""Makes the tiny reference models in tests/data/tiny that mix attention, recurrences and experts:

    pip install torch transformers==5.24 safetensors
    python3 tools/make_hybrids.py [NAME …]

To add a model, add it to MODELS. The files are those of make_goldens.py, which makes models without experts;
tensors have the names of published models. As in make_experts.py, embeddings point towards some of the experts,
and the seed with the clearest routing decisions is used.
"""

import json
import sys
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save_file

from make_experts import GREEDY, run
from make_goldens import gemma4_text

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"
PROMPT, SEEDS, VOCAB = 80, 100, 192
COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    attn_implementation="eager",
)


def of(name, **more):
    config, model = getattr(t, name + "Config"), getattr(t, name + "ForCausalLM")
    return lambda: model(config(**{**COMMON, **more}))


NEMOTRON = dict(num_hidden_layers=None, head_dim=16, ssm_state_size=32, mamba_num_heads=8, mamba_head_dim=16,
    n_groups=2, chunk_size=16, tie_word_embeddings=False)
MODELS = {
    # Sigmoid scores with a bias; a layer without experts, before and on short convolutions.
    "lfm2-experts": of("Lfm2Moe", layer_types=["conv", "full_attention", "conv"], num_dense_layers=1,
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, routed_scaling_factor=1.5,
        tie_word_embeddings=False),
    # Experts beside a shared network without a gate, gate and up of all experts in one tensor.
    "granite4-experts": of("GraniteMoeHybrid", layer_types=["linear_attention", "full_attention"] * 2,
        num_hidden_layers=4, num_local_experts=6, num_experts_per_tok=2, intermediate_size=24,
        shared_intermediate_size=40, mamba_n_heads=8, mamba_n_groups=1, mamba_d_state=32, mamba_expand=2,
        mamba_chunk_size=16, embedding_multiplier=2.0, logits_scaling=1.25, residual_multiplier=0.7,
        attention_multiplier=0.3),
    # Attention and Mamba-2 of the same input, without a norm of the latter; multipliers everywhere, mostly
    # powers of two, so that those in GGUF files, where they are applied, are exact.
    "falcon-h1": of("FalconH1", head_dim=32, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16,
        mamba_n_groups=2, mamba_d_state=32, mamba_chunk_size=16, embedding_multiplier=2.5,
        lm_head_multiplier=0.75, key_multiplier=0.5, attention_in_multiplier=2.0,
        attention_out_multiplier=0.5, mlp_multipliers=[0.5, 2.0], ssm_in_multiplier=2.0,
        ssm_out_multiplier=0.5, ssm_multipliers=[0.5, 1.0, 2.0, 0.25, 0.5]),
    # The same with a norm of groups, of gated values.
    "falcon-h1-norm": of("FalconH1", head_dim=32, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16,
        mamba_n_groups=2, mamba_d_state=32, mamba_chunk_size=16, mamba_rms_norm=True,
        mamba_norm_before_gate=False),
    # Layers that are one of Mamba-2, attention without RoPE, and a network with relu².
    "nemotron-h": of("NemotronH", **NEMOTRON,
        layers_block_type=["linear_attention", "mlp", "linear_attention", "full_attention", "mlp", "mlp"]),
    # The same with experts, chosen by sigmoids with a bias, beside a shared network.
    "nemotron-h-experts": of("NemotronH", **NEMOTRON, n_routed_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=24, moe_shared_expert_intermediate_size=40, routed_scaling_factor=2.5,
        layers_block_type=["linear_attention", "moe", "full_attention", "moe"]),
    # Attention sinks, windows on every other layer, biases everywhere, clamped activations, YaRN; the matrices of
    # all experts in one tensor, transposed, with alternating rows of gate and up.
    "gpt-oss": of("GptOss", intermediate_size=32, head_dim=16, num_local_experts=5, num_experts_per_tok=2,
        sliding_window=24, tie_word_embeddings=False, rope_parameters=dict(rope_type="yarn", rope_theta=10000.0,
        factor=8.0, beta_fast=8.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=64)),
    # Experts with the multipliers of Granite.
    "granite-experts": of("GraniteMoe", intermediate_size=24, num_local_experts=6, num_experts_per_tok=2,
        embedding_multiplier=2.0, logits_scaling=1.25, residual_multiplier=0.7, attention_multiplier=0.3),
    # The same beside a shared network.
    "granite-shared-experts": of("GraniteMoeShared", num_hidden_layers=2, intermediate_size=24,
        shared_intermediate_size=40, num_local_experts=6, num_experts_per_tok=2, embedding_multiplier=2.0,
        logits_scaling=1.25, residual_multiplier=0.7, attention_multiplier=0.3),
    # Sinks, windows, a base of RoPE for each layer, of which one has none.
    "granite-swa": of("GraniteSWA", sliding_window=24, tie_word_embeddings=False, layer_rope_theta=[0, 5000.0, 10000.0],
        embedding_multiplier=2.0, logits_scaling=1.25, residual_multiplier=0.7, attention_multiplier=0.3),
    # The same with experts beside a shared network.
    "granite-swa-experts": of("GraniteMoeSWA", num_hidden_layers=2, sliding_window=24, tie_word_embeddings=False, intermediate_size=24,
        shared_intermediate_size=40, num_local_experts=6, num_experts_per_tok=2, layer_rope_theta=[0, 10000.0],
        embedding_multiplier=2.0, logits_scaling=1.25, residual_multiplier=0.7, attention_multiplier=0.3),
    # RoPE pairs neighbouring values; biases on all projections.
    "ernie4-5": of("Ernie4_5", head_dim=24, use_bias=True, num_hidden_layers=2, tie_word_embeddings=False),
    # Experts chosen by their softmax with a bias, beside two shared ones; none on the first layer.
    "ernie4-5-experts": of("Ernie4_5_Moe", moe_intermediate_size=24, moe_k=2, moe_num_experts=6,
        moe_num_shared_experts=2, tie_word_embeddings=False),
    # SparseMixer, with scores far from its edge, as that is a jump: three experts are near enough for the first choice,
    # two for the second. LayerNorm, biases of attention and the output layer, a window, LongRoPE.
    "phi-experts": of("Phimoe", intermediate_size=40, num_local_experts=6, num_experts_per_tok=2,
        router_jitter_noise=0.3, num_hidden_layers=2, attention_bias=True, lm_head_bias=True, tie_word_embeddings=False,
        sliding_window=24, rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, factor=8.0,
        short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0], long_factor=[1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 8.0],
        short_mscale=1.2, long_mscale=1.2, original_max_position_embeddings=64)),
    # Sigmoids of groups with a bias; partial RoPE, norms of queries and keys, none of experts on the first layer.
    "glm4-experts": of("Glm4Moe", head_dim=16, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=2,
        n_group=4, topk_group=2, routed_scaling_factor=1.5, use_qk_norm=True, attention_bias=True,
        tie_word_embeddings=False, num_mtp_layers=0),
}


LATENT = dict(num_hidden_layers=2, num_key_value_heads=4, kv_lora_rank=32, qk_nope_head_dim=24,
    qk_rope_head_dim=16, v_head_dim=16, num_experts_per_tok=2, moe_intermediate_size=24, tie_word_embeddings=False)
MODELS |= {
    # Latent attention, of queries that are projections of the residual stream; experts, chosen by their softmax, beside
    # two shared ones; none on the first layer.
    "deepseek-v2": of("DeepseekV2", **LATENT, q_lora_rank=None, n_routed_experts=6, n_shared_experts=2,
        topk_method="group_limited_greedy", n_group=2, topk_group=1,
        first_k_dense_replace=1, routed_scaling_factor=1.5),
    # Latent attention with YaRN; experts chosen by sigmoids with a bias, beside a shared one.
    "deepseek-v3": of("DeepseekV3", **LATENT, q_lora_rank=40, n_routed_experts=6, n_shared_experts=1, n_group=3,
        topk_group=2, first_k_dense_replace=1, num_mtp_layers=0, rope_parameters=dict(rope_type="yarn",
        rope_theta=10000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
        original_max_position_embeddings=128)),
    # The same without YaRN; heads of other widths than 64 / 4.
    "glm4-moe-lite": of("Glm4MoeLite", **{**LATENT, "v_head_dim": 24}, q_lora_rank=24, n_routed_experts=6,
        n_shared_experts=1, routed_scaling_factor=1.5, rms_norm_eps=1e-6),
}

MODELS |= {
    # Windows in chunks, and RoPE on neighbours before norms without weights, except on the last layer, where queries
    # grow with their position; on every other layer experts, whose sigmoids weigh inputs, beside a shared one; the
    # matrices of all experts in one tensor, transposed.
    "llama4": lambda: t.Llama4ForCausalLM(t.Llama4TextConfig(**{**COMMON, "intermediate_size": 24,
        "num_hidden_layers": 4}, head_dim=16, intermediate_size_mlp=80, num_local_experts=5, num_experts_per_tok=1,
        interleave_moe_layer_step=2, attention_chunk_size=24, floor_scale=8, attn_scale=0.3,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=1.0, original_max_position_embeddings=64))),
    # Experts beside a feed-forward network, with norms of their own, a factor of each expert; other traits as of `gemma4`.
    "gemma4-experts": lambda: t.Gemma4ForCausalLM(gemma4_text(attention_k_eq_v=True, num_global_key_value_heads=1,
        hidden_size_per_layer_input=0, num_hidden_layers=3, intermediate_size=48, tie_word_embeddings=False,
        enable_moe_block=True,
        layer_types=["sliding_attention"] * 2 + ["full_attention"], num_experts=5, top_k_experts=2,
        moe_intermediate_size=24)),
}

BIASES = ("expert_bias", "e_score_correction_bias")  # of routers


def is_router(name):
    return name.endswith(("gate.weight", "router.weight", "router.proj.weight")) and "gate_proj" not in name


def per_token(model):
    """Number of experts chosen for each token."""
    names = ("num_experts_per_tok", "moe_k", "top_k_experts")
    return next((getattr(model.config, name) for name in names if getattr(model.config, name, None)), 0)


def randomize(model, seed):
    """Sets random weights, rounded to bfloat16: outputs about as large as inputs, norms about 1."""
    g = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=g)
    named = [*model.named_parameters(), *model.named_buffers()]
    routers = [p for name, p in named if is_router(name)]
    n = routers[0].shape[0] if routers else 0
    directions = torch.linalg.qr(random(64, n)).Q.T if n else None
    k = per_token(model)
    flat = k == 1 or any(name.endswith(BIASES) for name, _ in named)
    strength = 8 if flat else 4  # sigmoids are flat where they are large
    mixes = getattr(model.config, "router_jitter_noise", 0) > 0
    strengths = torch.tensor([24, 20, 16.6] if mixes else [float(strength)] * k)
    with torch.no_grad():
        for name, p in named:
            noise = random(p.shape)
            if name.endswith(("inv_freq", "mup_vector", "embed_scale")):
                continue
            elif name.endswith(BIASES):
                value = 0.05 * noise
            elif is_router(name):
                value = directions * (0.3 if k == 1 else 1) + 0.02 * noise  # a sigmoid that is not always nearly 1
                if name.endswith("proj.weight"):
                    value *= 8  # as the root of the width, by which its input is divided
            elif "embed" in name and p.dim() == 2:
                value = noise
                if n:
                    chosen = torch.rand(VOCAB, n, generator=g).topk(len(strengths)).indices
                    value = 0.7 * noise + (strengths[:, None] * directions[chosen]).sum(1)
            elif name.endswith("sinks"):
                value = noise + 1.0
            elif name.endswith("A_log"):
                value = noise - 2.0  # some heads remember many tokens, some nearly all
            elif name.endswith(".D"):
                value = 1.0 + 0.3 * noise
            elif name.endswith("bias"):
                value = 0.3 * noise
            elif p.dim() == 1:
                value = 1.0 + (0.1 if n else 0.2) * noise
                if "gemma4" in model.config.model_type and ("q_norm" in name or "k_norm" in name):
                    value *= 0.5  # as scores are not scaled
            else:
                value = noise / p.shape[-1] ** 0.5
            p.copy_(value.bfloat16().float())


def watch(model, gaps):
    """Appends the smallest gap between the scores of the last chosen expert and of the first other to `gaps`."""
    k = per_token(model)

    def hook(module, args, output):
        x = args[0].reshape(-1, args[0].shape[-1])
        if hasattr(module, "proj"):
            x, module = module.norm(x) * module.scale * module.scalar_root_size, module.proj
        weight = module.weight if hasattr(module, "weight") else module.layer.weight
        scores = torch.nn.functional.linear(x, weight, getattr(module, "bias", None))
        bias = args[1] if len(args) > 1 else getattr(module, "e_score_correction_bias", None)
        statics = getattr(module, "moe_statics", None)
        if bias is not None:
            scores = 4 * (scores.sigmoid() + bias)  # in units of logits, near 0
        if statics is not None:
            scores = 4 * (scores.softmax(-1) + statics.e_score_correction_bias)
        if (groups := getattr(module, "num_group", None) or 1) > 1:
            counted = 2 if bias is not None else 1  # scores of a group
            best = scores.view(len(scores), groups, -1).topk(counted).values.sum(-1).sort(descending=True)
            gaps.append((best.values[:, module.topk_group - 1] - best.values[:, module.topk_group]).min().item())
            others = best.indices[:, module.topk_group:, None] == torch.arange(groups).repeat_interleave(
                scores.shape[1] // groups)
            scores = scores.masked_fill(others.any(1), -float("inf"))
        if getattr(module, "router_jitter_noise", 0) > 0:  # who is near enough to count
            best = scores.sort(descending=True).values
            for largest in best[:, :1], best[:, 1:2]:
                edge = largest - 2 * module.router_jitter_noise * scores.abs().maximum(largest)
                gaps.append((scores - edge).abs().min().item())
        scores = scores.sort(descending=True).values
        gaps.append((scores[:, k - 1] - scores[:, k]).min().item())

    for name, module in model.named_modules():
        if "Router" in type(module).__name__:
            module.register_forward_hook(hook)


# Models whose RoPE depends on the length: transformers' PhimoeRotaryEmbedding always has the short factors, so
# prompt and answer stay within the original context.
CAPACITY = {"phi-experts": 64}


def prompt_of(seed, name):
    n = CAPACITY[name] - GREEDY if name in CAPACITY else PROMPT
    return [(i * i * 7 + i * 13 + seed) % VOCAB for i in range(n)]


def make(name):
    model = MODELS[name]().float().eval()
    gaps, seeds = [], []
    watch(model, gaps)
    for seed in range(SEEDS):
        randomize(model, seed)
        gaps.clear()
        with torch.no_grad():
            model(torch.tensor([prompt_of(seed, name)]))
        seeds.append((min(gaps, default=0), -seed))
        if not gaps and seed == 9:
            break
    for gap, seed in sorted(seeds, reverse=True):
        randomize(model, -seed)
        prompt = prompt_of(-seed, name)
        logits, greedy, margin = run(model, prompt)
        if margin > 0.01:  # greedy ids must not depend on the order of summation
            break
    folder = OUT / name
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({"logits": logits.contiguous()}, folder / "golden.safetensors")
    golden = dict(prompt=prompt, greedy=greedy, min_greedy_margin=round(margin, 5), seed=-seed)
    if name in CAPACITY:
        golden["capacity"] = CAPACITY[name]
    if gaps:
        golden["min_router_gap"] = round(gap, 5)
    (folder / "golden.json").write_text(json.dumps(golden))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {-seed}, router gap {gap:.4f}, margin {margin:.4f}, std {logits.std():.2f}, "
          f"{size // 1000} kB")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make(name)
