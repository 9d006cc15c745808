#!/usr/bin/env python3
"""Writes crates/packer/tests/fixtures/quantized: for each way to quantize a checkpoint, a safetensors file of small
quantized weights, and for each weight `NAME.expected`, its values as float32 from the publishers' own
dequantization:

  fp8                 transformers' Fp8Dequantize; DeepSeek's weight_dequant where blocks are cut off
  compressed-tensors  compressors of the package compressed-tensors
  bitsandbytes        dequantize_4bit of the package bitsandbytes (its reference in PyTorch)
  mxfp4               transformers' convert_moe_packed_tensors, transposed back to the order in which rows are stored
  gptq                the formula of GPTQModel's dequantize_weight, in float16; the package needs a compiler and a GPU
  awq                 the formula of AutoAWQ's dequantize_gemm, in float16; likewise

Origin: written for this project, random numbers only. Run with torch 2.15 (CPU), transformers 5.24, compressed-tensors
0.20, bitsandbytes 0.50 and safetensors:

    python3 make_quantized.py          # all, or those named, such as mxfp4
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "../crates/packer/tests/fixtures/quantized")


def save(name, config, tensors):
    os.makedirs(OUT, exist_ok=True)
    for key, value in tensors.items():
        if key.endswith(".expected"):
            assert value.isfinite().all(), key
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    path = os.path.join(OUT, f"{name}.safetensors")
    save_file(tensors, path)
    os.chmod(path, 0o644)
    with open(os.path.join(OUT, f"{name}.json"), "w") as file:
        json.dump({"quantization_config": config}, file, indent=1)
        file.write("\n")


def pack(codes, bits):
    """Codes along the last dimension, as a stream of bits in 32-bit words."""
    *lead, n = codes.shape
    stream = (codes.long().unsqueeze(-1) >> torch.arange(bits) & 1).reshape(*lead, n * bits)
    stream = torch.nn.functional.pad(stream, (0, -n * bits % 32)).reshape(*lead, -1, 32)
    words = (stream << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def gptq(name, one_more):
    """Codes along the inputs, zeros along the outputs."""
    tensors = {}
    cases = [("sym", 4, 64, 96, 32, False), ("order", 4, 128, 64, 32, True), ("eight", 8, 64, 32, 16, False),
             ("three", 3, 96, 64, 32, False), ("two", 2, 64, 64, 64, True), ("plain", 4, 40, 8, 8, False)]
    for module, bits, k, n, group, order in cases if one_more else cases[:2]:
        groups = k // group
        codes = torch.randint(0, 1 << bits, (k, n))
        zeros = torch.randint(0, 1 << bits, (groups, n))
        if module == "sym":
            zeros[:] = 1 << bits - 1
        if module == "eight":
            zeros[0, :2] = torch.tensor([0, 255])
        scales = (torch.randn(groups, n) * 0.01).half()
        index = torch.arange(k) // group
        if order:
            index = index[torch.randperm(k)]
        stored = (zeros - 1) % (1 << bits) if one_more else zeros
        tensors |= {f"{module}.qweight": pack(codes.T, bits).T, f"{module}.qzeros": pack(stored, bits),
                    f"{module}.scales": scales}
        if module != "plain":
            tensors[f"{module}.g_idx"] = index.to(torch.int32)
        kind = torch.int16 if bits == 8 else torch.int8
        weight = scales[index] * (codes.to(kind) - zeros.to(kind)[index])
        assert weight.dtype == torch.float16
        tensors[f"{module}.expected"] = weight.T.float()
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False, "lm_head": False}
    save(name, config | ({} if one_more else {"checkpoint_format": "gptq_v2"}), tensors)


def awq():
    """Eight outputs of an input in a word, in the order 0, 2, 4, 6, 1, 3, 5, 7."""
    tensors = {}
    for module, k, n, group in [("a", 64, 96, 32), ("b", 96, 8, 96)]:
        codes = torch.randint(0, 16, (k, n))
        zeros = torch.randint(0, 16, (k // group, n))
        scales = (torch.randn(k // group, n) * 0.01).half()
        def ordered(x):
            return pack(x.reshape(len(x), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].reshape(len(x), -1), 4)
        weight = (codes.to(torch.int8) - zeros.to(torch.int8).repeat_interleave(group, 0)) * scales.repeat_interleave(group, 0)
        assert weight.dtype == torch.float16
        tensors |= {f"{module}.qweight": ordered(codes), f"{module}.qzeros": ordered(zeros), f"{module}.scales": scales,
                    f"{module}.expected": weight.T.float()}
    save("awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, tensors)


def fp8():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    op = Fp8Dequantize(None)
    tensors = {}
    cases = [("blocks", (64, 96), (2, 3), torch.float8_e4m3fn, torch.float32),
             ("bf16", (64, 32), (2, 1), torch.float8_e4m3fn, torch.bfloat16),
             ("e5m2", (32, 64), (1, 2), torch.float8_e5m2, torch.float32),
             ("whole", (24, 40), (), torch.float8_e4m3fn, torch.float32),
             ("rows", (24, 40), (24, 1), torch.float8_e4m3fn, torch.float32),
             ("cut", (40, 72), (2, 3), torch.float8_e4m3fn, torch.float32)]
    for module, shape, grid, kind, scale_kind in cases:
        weight = (torch.randn(shape) * 100).clamp(-400, 400).to(kind)
        flat = weight.view(torch.uint8).reshape(-1)
        flat[:4] = torch.tensor([0, 0x80, 1, 0x07], dtype=torch.uint8)  # both zeros and subnormals
        scale = (torch.rand(grid) * 0.01 + 1e-4).to(scale_kind)
        if module == "cut":  # the last blocks are cut off
            wide = scale.repeat_interleave(32, 0).repeat_interleave(32, 1)[:shape[0], :shape[1]]
            expected = weight.float() * wide
        else:
            expected = op._dequantize_one(weight, scale.reshape(grid or (1, 1)))
        name = "weight_scale_inv"
        tensors |= {f"{module}.weight": weight, f"{module}.{name}": scale, f"{module}.expected": expected.float()}
    tensors["whole.input_scale"] = torch.tensor(0.5)
    tensors["floats.weight"] = torch.randn(3, 5).bfloat16()
    tensors["floats.expected"] = tensors["floats.weight"].float()
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32],
              "modules_to_not_convert": ["floats"]}
    save("fp8", config, tensors)


def compressed():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    tensors, groups = {}, {}

    def add(module, form, args, state):
        """Packs, writes, unpacks: the values are those of the package."""
        args = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        compressor = BaseCompressor.get_value_from_registry(form)
        packed = compressor.compress(dict(state), scheme)
        tensors.update({f"{module}.{key}": value for key, value in packed.items()})
        tensors[f"{module}.expected"] = compressor.decompress(dict(packed), scheme)["weight"].float()
        groups[f"group_{len(groups)}"] = {"targets": [module], "format": form,
                                          "weights": args.model_dump(mode="json", exclude_none=True)}

    def state(n, k, grid, zero=None, kind=torch.float32, bits=4):
        weight = torch.randn(n, k) * 0.1
        scale = (torch.rand(grid) * 0.02 + 0.01).to(kind)
        found = {"weight": weight.to(kind), "weight_scale": scale}
        if zero:
            found["weight_zero_point"] = torch.randint(-(1 << bits - 1), 1 << bits - 1, grid, dtype=torch.int8)
        return found

    sym = {"type": "int", "symmetric": True, "num_bits": 4}
    asym = sym | {"symmetric": False}
    group = {"strategy": "group", "group_size": 32}
    pack_form = "pack-quantized"
    add("group", pack_form, sym | group, state(24, 64, (24, 2)))
    add("bf16", pack_form, sym | group, state(16, 96, (16, 3), kind=torch.bfloat16))
    add("zeros", pack_form, asym | group, state(40, 64, (40, 2), True, torch.float16))
    add("channel", pack_form, asym | {"strategy": "channel"}, state(24, 40, (24, 1), True))
    add("eight", pack_form, sym | group | {"num_bits": 8}, state(8, 64, (8, 2), bits=8))
    add("three", pack_form, asym | group | {"num_bits": 3}, state(40, 64, (40, 2), True, bits=3))
    eight = {"num_bits": 8, "strategy": "channel"}
    add("int8", "int-quantized", sym | eight, state(24, 40, (24, 1), kind=torch.bfloat16))
    add("int8zeros", "int-quantized", asym | eight, state(24, 40, (24, 1), True, bits=8))
    floats = {"type": "float", "symmetric": True, "num_bits": 8}
    add("float", "float-quantized", floats | {"strategy": "channel"}, state(24, 40, (24, 1), kind=torch.bfloat16))
    add("tensor", "naive-quantized", floats | {"strategy": "tensor"}, state(24, 40, (1,)))
    add("block", "float-quantized", floats | {"strategy": "block", "block_structure": [16, 32]},
        state(40, 80, (3, 3)))
    nvfp4 = {"type": "float", "symmetric": True, "num_bits": 4, "strategy": "tensor_group", "group_size": 16}
    four = state(16, 64, (16, 4), kind=torch.float32)
    four["weight_scale"] = (torch.rand(16, 4) * 400 + 1).to(torch.float8_e4m3fn).float()
    four["weight_global_scale"] = torch.tensor([3021.5])
    four["weight"] = four["weight"] * 4
    add("nvfp4", "nvfp4-pack-quantized", nvfp4, four)
    # Powers of two as scales, from the smallest one that a byte can state.
    powers = lambda grid: 2.0 ** torch.randint(-127, 124, grid).float()
    for module, form, bits in ("mxfp4", "mxfp4-pack-quantized", 4), ("mxfp8", "mxfp8-quantized", 8):
        args = group | {"type": "float", "symmetric": True, "num_bits": bits, "scale_dtype": "torch.uint8"}
        found = {"weight": torch.randn(16, 96), "weight_scale": powers((16, 3))}
        found["weight_scale"][0, 0] = 2.0 ** -127
        found["weight"] = found["weight"] * 2 * found["weight_scale"].repeat_interleave(32, 1)
        add(module, form, args, found)
    tensors["group.input_scale"] = torch.tensor([1.0])
    # Groups in another order, as files before 2026 have them: the scale of an input is that of its group.
    index = torch.randperm(64).to(torch.int32) // 32
    codes, scale = torch.randint(-8, 8, (8, 64)), torch.rand(8, 2) * 0.02 + 0.01
    tensors |= {"order.weight_packed": pack(codes + 8, 4), "order.weight_scale": scale,
                "order.weight_shape": torch.tensor([8, 64]), "order.weight_g_idx": index,
                "order.expected": codes.float() * scale[:, index.long()]}
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups,
              "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}
    save("compressed-tensors", config, tensors)


def bitsandbytes():
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from bitsandbytes import functional as f
    tensors = {}
    cases = [("nf4", "nf4", torch.bfloat16, (24, 40), 64, False), ("fp4", "fp4", torch.float16, (24, 40), 64, False),
             ("nested", "nf4", torch.bfloat16, (160, 128), 64, True), ("f32", "nf4", torch.float32, (9, 15), 32, False)]
    for module, kind, dtype, shape, block, nested in cases:
        weight = (torch.randn(shape) * 0.05).to(dtype)
        packed, state = f.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{module}.weight.{key}"] = value
        tensors[f"{module}.weight"] = packed
        absmax = state.absmax
        if nested:
            absmax = f.dequantize_blockwise(state.absmax, state.state2) + state.offset
        values = getattr(_dequantize_4bit_compute, "__wrapped__", _dequantize_4bit_compute)(
            packed.reshape(-1), absmax.float(), state.code, block, shape, dtype)
        tensors[f"{module}.expected"] = values.reshape(shape).float()
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "_load_in_4bit": True,
              "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    save("bitsandbytes", config, tensors)


def mxfp4():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    g = torch.Generator().manual_seed(20261130)
    tensors = {}
    for module, shape in [("experts.gate_up_proj", (3, 24, 3)), ("experts.down_proj", (2, 40, 1))]:
        blocks = torch.randint(0, 256, (*shape, 16), generator=g, dtype=torch.uint8)
        scales = torch.randint(110, 130, shape, generator=g, dtype=torch.uint8)
        # All pairs of codes, and the ends of the range of scales: subnormal values, and the largest ones.
        blocks.view(-1)[:256] = torch.arange(256)
        scales.view(-1)[16:24] = torch.tensor([0, 1, 2, 126, 127, 128, 251, 252])
        expected = convert_moe_packed_tensors(blocks, scales).transpose(1, 2)
        tensors |= {f"{module}_blocks": blocks, f"{module}_scales": scales, f"{module}.expected": expected.float()}
    save("mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}, tensors)


MAKERS = {"gptq": lambda: gptq("gptq", True), "gptq-v2": lambda: gptq("gptq-v2", False), "awq": awq, "fp8": fp8,
          "compressed-tensors": compressed, "bitsandbytes": bitsandbytes, "mxfp4": mxfp4}
torch.manual_seed(20261130)
for name in sys.argv[1:] or MAKERS:
    MAKERS[name]()
