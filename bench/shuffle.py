#!/usr/bin/env python3
"""Makes a fair float32 model for measuring quantization out of a model that was quantized before.

    shuffle.py MODEL.gguf OUT.gguf [SEED]

In a GGUF file with 4 bits, neighbouring inputs of a row share a scale. A quantizer with the same groups
would find these scales again, and look better than it is. So the inputs of every matrix are permuted,
in ways that do not change what the model computes:

    residual stream   one permutation of d_model for the whole model
    feed-forward      one permutation of d_ff for each layer
    values            one permutation of the values of each KV head of each layer

Queries and keys keep their order, which RoPE fixes; it means nothing to quantizers that group inputs.
Inputs of attn_output stay within their head. Architectures: llama, gemma3.
"""

import pathlib
import sys

import gguf
import numpy
from gguf.quants import dequantize

READ_BY_EVERY_LAYER = ["attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"]
GEMMA_NORMS = ["post_attention_norm", "post_ffw_norm"]


def main():
    source, out, *seed = sys.argv[1:]
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    assert arch in ("llama", "gemma3"), f"{source}: its architecture {arch} is not supported"
    tensors = {t.name: array(t) for t in reader.tensors}
    key = lambda name: reader.fields[f"{arch}.{name}"].contents()
    heads, kv = key("attention.head_count"), key("attention.head_count_kv")
    shuffle(tensors, key("block_count"), heads, kv, numpy.random.default_rng(int(*seed or [1])))
    write(pathlib.Path(out), reader, arch, tensors)


def array(tensor):
    return dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]).astype(numpy.float32)


def shuffle(tensors, layers, heads, kv, noise):
    def columns(name, order):
        if name + ".weight" in tensors:
            tensors[name + ".weight"] = numpy.ascontiguousarray(tensors[name + ".weight"][..., order])

    def rows(name, order):
        tensors[name + ".weight"] = numpy.ascontiguousarray(tensors[name + ".weight"][order])

    stream = noise.permutation(tensors["token_embd.weight"].shape[1])
    for name in ("token_embd", "output_norm", "output"):
        columns(name, stream)
    for layer in range(layers):
        at = f"blk.{layer}."
        for name in READ_BY_EVERY_LAYER + GEMMA_NORMS:
            columns(at + name, stream)
        for name in ("attn_output", "ffn_down"):
            rows(at + name, stream)
        hidden = noise.permutation(tensors[at + "ffn_up.weight"].shape[0])
        for name in ("ffn_gate", "ffn_up"):
            rows(at + name, hidden)
        columns(at + "ffn_down", hidden)
        size = tensors[at + "attn_v.weight"].shape[0] // kv
        values = [noise.permutation(size) for _ in range(kv)]
        rows(at + "attn_v", numpy.concatenate([h * size + v for h, v in enumerate(values)]))
        share = heads // kv
        order = [h * size + values[h // share] for h in range(heads)]
        columns(at + "attn_output", numpy.concatenate(order))


def write(path, reader, arch, tensors):
    """The same file with other tensors, in float32."""
    writer = gguf.GGUFWriter(path.with_suffix(".part"), arch)
    derived = ("general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in derived:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main()
