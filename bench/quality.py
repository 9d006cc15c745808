"""Divergence of each engine's 8-bit and smaller weights from the same model in float32.

    quality.py NANOINFER MODEL_FOLDER TEXT OUT.json

All engines predict the same 2,048 tokens, in 4 windows of 512, from the first position on. The
reference is transformers in float32. KL is Σ p·(log p − log q) over the vocabulary, in nats, where p
are the reference's probabilities, averaged over all positions. Bits per weight include all tensors,
but not the tokenizer.
"""

import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parent / "engines"))
from models import requantize

WINDOW, WINDOWS = 512, 4
# File type numbers of llama.cpp.
LLAMA = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2}


def main():
    nanoinfer, home, text, out = map(pathlib.Path, sys.argv[1:])
    from transformers import AutoModelForCausalLM

    # Not with transformers, which turns every space into <|endoftext|> when it converts this GGUF.
    nano = home / "model.nano"
    tokenize = [nanoinfer, "tokenize", "--model", nano, "--json", "--special", "--no-bos"]
    tokenize += ["--text", text.read_text()]
    ids = json.loads(run(tokenize))["ids"]
    windows = [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(WINDOWS)]
    assert len(windows[-1]) == WINDOW, f"{text}: too short"
    model = AutoModelForCausalLM.from_pretrained(home / "hf", dtype="float32").eval()
    weights = model.num_parameters()
    reference = [log_softmax(torch_logits(model, w)) for w in windows]
    del model

    rows = []

    def row(engine, kind, size, logits):
        scores = [compare(p, log_softmax(logits(w))) for p, w in zip(reference, windows)]
        kl, top1 = (numpy.concatenate(s) for s in zip(*scores))
        row = {"engine": engine, "weights": kind, "bits_per_weight": 8 * size / weights}
        row |= {"mean_kl": float(kl.mean()), "p99_kl": float(numpy.quantile(kl, 0.99))}
        rows.append(row | {"top1": float(top1.mean())})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    tensors = json.loads(run([nanoinfer, "inspect", nano, "--json"]))["tensors"]
    row("nanoinfer", "q8", sum(t["len"] for t in tensors), lambda w: nano_logits(nanoinfer, nano, w))
    for kind, number in LLAMA.items():
        gguf = home / f"model-{kind.lower()}.gguf"
        requantize(home / "source.gguf", gguf, number)
        row("llama.cpp", kind, gguf_bytes(gguf), Llama(gguf).logits)
    folder = home / "openvino"
    size = (folder / "openvino_model.bin").stat().st_size
    row("OpenVINO", "int8", size, OpenVino(folder).logits)
    result = {"windows": WINDOWS, "window": WINDOW, "parameters": weights, "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n")


def run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def log_softmax(x):
    x = x.astype(numpy.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


def compare(p, q):
    """For each position, the KL divergence and whether the most likely token is the same."""
    return (numpy.exp(p) * (p - q)).sum(axis=1), p.argmax(axis=1) == q.argmax(axis=1)


def torch_logits(model, ids):
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def nano_logits(nanoinfer, nano, ids):
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.safetensors"
        run([nanoinfer, "logits", "--model", nano, "--tokens", ",".join(map(str, ids)), "--out", out])
        return load_file(out)["logits"]


def gguf_bytes(path):
    import gguf

    return sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)


class Llama:
    def __init__(self, path):
        from peer_llama import Engine

        self.engine = Engine(str(path), 2, WINDOW, 1)

    def logits(self, ids):
        import llama_cpp as C

        engine = self.engine
        engine.forget()
        engine.run([(token, i, 0, True) for i, token in enumerate(ids)])
        values = C.llama_get_logits(engine.handle)
        size = len(ids) * engine.vocab
        values = ctypes.cast(values, ctypes.POINTER(ctypes.c_float * size)).contents
        return numpy.array(values, dtype=numpy.float32).reshape(len(ids), engine.vocab)


class OpenVino:
    def __init__(self, folder):
        import openvino

        model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU")
        self.request = model.create_infer_request()
        self.names = {name for port in model.inputs for name in port.get_names()}

    def logits(self, ids):
        self.request.reset_state()
        count = len(ids)
        inputs = {
            "input_ids": numpy.array([ids]),
            "attention_mask": numpy.ones((1, count), numpy.int64),
            "position_ids": numpy.arange(count)[None],
            "beam_idx": numpy.zeros(1, numpy.int32),
        }
        inputs = {name: value for name, value in inputs.items() if name in self.names}
        return self.request.infer(inputs)[0][0].copy()


if __name__ == "__main__":
    main()
