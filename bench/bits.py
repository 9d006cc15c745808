#!/usr/bin/env python3
"""Divergence from float32 of NanoInfer's 8- to 2-bit files and of llama.cpp's K-quants.

    bits.py MODEL OUT.json --nanoinfer BINARY --text TEXT [--text …]

MODEL is a float32 or float16 model: a Hugging Face folder or a GGUF file. Every row predicts the same
windows of 512 tokens of each text, from the first position on. The reference is NanoInfer in float32,
which must agree with transformers. KL is Σ p·(log p − log q) over the vocabulary, in nats, where p are
the reference's probabilities.

NanoInfer runs the files that `convert --quant` writes, with 8-bit activations and the default cache;
calibrated ones once for each seed of the texts that the model writes. The K-quants are computed by
llama.cpp's own quantizer with llama.cpp's choice of encodings, and run by transformers with float32
activations, so they look slightly better than in use. Their importance matrix is from 64 texts of 512 tokens
that the model writes, too.

Bits per weight include scales: of the matrices of the layers, and of everything that a token reads,
i.e. including the output layer. Rows that OUT.json already has are kept, except with --fresh.
"""

import argparse
import concurrent.futures
import datetime
import json
import pathlib
import subprocess
import tempfile
import time

import numpy
import torch
from safetensors.numpy import load_file, save_file

from kquants import Quantizer, encoding

ROOT = pathlib.Path(__file__).resolve().parent.parent
WINDOW = 512
TEXTS, TEXTS_AT_ONCE = 64, 32
PEERS = [("Q5_K_M", "matrix"), ("Q4_K_M", "matrix"), ("Q4_K_M", "none"), ("IQ4_XS", "matrix")]
PEERS += [("Q3_K_M", "matrix"), ("Q2_K", "matrix")]
CODED = ["q5", "q4", "q3", "q2"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="folder or GGUF file")
    parser.add_argument("out", type=pathlib.Path, help="JSON file for the results")
    parser.add_argument("--nanoinfer", type=pathlib.Path, required=True, help="path of the binary")
    parser.add_argument("--text", type=pathlib.Path, action="append", required=True, help="repeatable")
    parser.add_argument("--windows", type=int, default=8, help="of each text, at most (default: 8)")
    parser.add_argument("--seeds", type=listed(int), default=[0, 1, 2], help="of calibration (default: 0,1,2)")
    parser.add_argument("--only", type=listed(str), help="weights to measure, such as q4,Q4_K_M (default: all)")
    parser.add_argument("--fresh", action="store_true", help="measure these rows again")
    parser.add_argument("--name", help="of the model, for tables (default: its file name)")
    parser.add_argument("--ggml", type=pathlib.Path, help="libggml-base (default: that of llama-cpp-python)")
    parser.add_argument("--commit", default=commit(), help="of the binary (default: that of this folder)")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target" / "bits", help="folder for models")
    args = parser.parse_args()
    args.work = args.work / args.model.stem
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    Measurement(args).run()


def listed(kind):
    return lambda text: [kind(part) for part in text.split(",")]


class Measurement:
    def __init__(self, args):
        self.args = args
        self.exact, _ = self.convert("f32", "")
        generation = self.inspect(self.exact)["generation"]
        self.start = [generation["bos"]] if generation.get("add_bos") else []
        self.windows = {text.stem: self.cut(text) for text in args.text}
        old = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
        self.rows = [r for r in old if not (args.fresh and self.chosen(r["weights"]))]

    def run(self):
        for weights in ["q8", *CODED]:
            if weights == "q8":
                self.ours(weights, "")
            else:
                for seed in self.args.seeds:
                    self.ours(weights, f"seed {seed}", "--calibrate-seed", seed)
            if weights in ("q5", "q4"):
                self.ours(weights, "none", "--calibrate", "none")
        missing = [p for p in PEERS if self.missing("llama.cpp", *p)]
        if missing:
            peer = Peer(self.args, self.start)
            difference = max(self.divergence(peer.logits, next(iter(self.windows))))
            assert difference < 1e-4, f"transformers differs from NanoInfer: KL {difference}"
            for file_type, calibration in missing:
                bits = peer.quantize(file_type, calibration == "matrix")
                self.add("llama.cpp", file_type, calibration, bits, peer.logits, peer.quantizer.version)

    def chosen(self, weights):
        return self.args.only is None or weights in self.args.only

    def missing(self, engine, weights, calibration):
        key = lambda r: (r["engine"], r["weights"], r["calibration"])
        return self.chosen(weights) and (engine, weights, calibration) not in map(key, self.rows)

    def ours(self, weights, calibration, *options):
        if not self.missing("NanoInfer", weights, calibration):
            return
        file, seconds = self.convert(weights, calibration, *options)
        with tempfile.TemporaryDirectory() as folder:
            logits = lambda ids: self.logits(file, ids, pathlib.Path(folder) / "logits.safetensors")
            self.add("NanoInfer", weights, calibration, self.bits(file), logits, self.args.commit, seconds)

    def add(self, engine, weights, calibration, bits, logits, version, seconds=None):
        row = {"engine": engine, "weights": weights, "calibration": calibration, "version": version}
        row |= {"bits_linears": bits[0], "bits_all": bits[1], "convert_seconds": seconds, "kl": {}}
        for text in self.windows:
            kl = self.divergence(logits, text)
            row["kl"][text] = {"mean": kl.mean().item(), "median": kl.median().item()}
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self):
        order = {name: i for i, name in enumerate(["q8", *CODED, *dict(PEERS)])}
        self.rows.sort(key=lambda r: (r["engine"], order[r["weights"]], r["calibration"]))
        machine = json.loads(run(self.args.nanoinfer, "doctor", "--json"))
        result = {
            "model": self.args.name or self.args.model.stem,
            "date": datetime.date.today().isoformat(),
            "cpu": f"{machine['machine']['cpu']}, {machine['isa']['used']}",
            "window": WINDOW,
            "windows": {text: len(windows) for text, windows in self.windows.items()},
            "rows": self.rows,
        }
        self.args.out.write_text(json.dumps(result, indent=1) + "\n")

    def divergence(self, logits, text):
        """KL at every position of the text's windows."""
        found = []
        for number, window in enumerate(self.windows[text]):
            reference = self.reference(text, number)
            p, q = (torch.log_softmax(torch.as_tensor(x), -1) for x in (reference, logits(window)))
            found.append((p.exp() * (p - q)).sum(-1))
        return torch.cat(found)

    def reference(self, text, number):
        """A window's logits in float32."""
        out = self.args.work / f"reference-{text}-{number}.safetensors"
        return load_file(out)["logits"] if out.exists() else self.logits(self.exact, self.windows[text][number], out)

    def convert(self, weights, calibration, *options):
        """The converted file, and how long that took if it was not there, made by the same binary."""
        binary = self.args.nanoinfer
        out = self.args.work / "-".join([weights, *calibration.split()])
        out = out.with_suffix(".nano")
        if out.exists() and out.stat().st_mtime > binary.stat().st_mtime:
            return out, None
        begin = time.monotonic()
        run(binary, "convert", "--model", self.args.model, "--out", out, "--quant", weights, *options)
        return out, time.monotonic() - begin

    def cut(self, text):
        """The text's windows, each of which begins like a prompt."""
        options = ["--model", self.exact, "--json", "--no-bos", "--file", text]
        ids = json.loads(run(self.args.nanoinfer, "tokenize", *options))["ids"]
        windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
        assert windows, f"{text}: has fewer than {WINDOW} tokens"
        return [self.start + ids[len(self.start) :] for ids in windows[: self.args.windows]]

    def logits(self, nano, ids, out):
        options = ["--model", nano, "--tokens", ",".join(map(str, ids)), "--out", out]
        run(self.args.nanoinfer, "logits", *options)
        return load_file(out)["logits"]

    def bits(self, nano):
        """Bits per weight of the layers' matrices, and with the output layer."""
        panels = [t for t in self.inspect(nano)["tensors"] if t["encoding"].endswith("panel")]
        linears = [t for t in panels if t["layer"] is not None]
        head = [t for t in panels if t["role"] == "output"] or [t for t in panels if t["role"] == "token_embd"]
        per_weight = lambda ts: 8 * sum(t["len"] for t in ts) / sum(numpy.prod(t["logical"]) for t in ts)
        return per_weight(linears), per_weight(linears + head)

    def inspect(self, nano):
        return json.loads(run(self.args.nanoinfer, "inspect", nano, "--json"))


class Peer:
    """The model in transformers, with matrices as llama.cpp's quantizer would store them."""

    def __init__(self, args, start):
        from transformers import AutoModelForCausalLM

        folder, file = (args.model, None) if args.model.is_dir() else (args.model.parent, args.model.name)
        self.model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
        self.work, self.start = args.work, start
        self.quantizer = Quantizer(args.ggml)
        config = self.model.config
        self.layers, self.group = config.num_hidden_layers, config.num_attention_heads // config.num_key_value_heads
        # A separate table of embeddings stays in float32: a token reads only one of its rows.
        named = dict(self.model.named_modules())
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        linears = {n: m for n, m in named.items() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
        self.matrices = linears | {head: named[head]}
        self.exact = {name: m.weight.data for name, m in self.matrices.items()}

    def logits(self, ids):
        return self.model(torch.tensor([ids])).logits[0]

    def quantize(self, file_type, with_matrix):
        """Replaces the weights; returns bits per weight of the layers, and with the output layer."""
        importance = self.importance() if with_matrix else {}

        def one(name):
            layer, role = part(name)
            kind = encoding(file_type, role, layer, self.layers, self.group, with_matrix)
            return self.quantizer.rounded(self.exact[name].numpy(), kind, importance.get(name))

        bits = {True: 0, False: 0}
        count = {True: 0, False: 0}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for name, (weights, each) in zip(self.exact, pool.map(one, self.exact)):
                self.matrices[name].weight.data = torch.from_numpy(weights)
                in_layer = part(name)[0] is not None
                bits[in_layer] += each * weights.size
                count[in_layer] += weights.size
        return bits[True] / count[True], sum(bits.values()) / sum(count.values())

    def importance(self):
        """The mean square of each input of each matrix of the layers, over texts that the model writes."""
        file = self.work / "importance.safetensors"
        if not file.exists():
            for name, module in self.matrices.items():
                module.weight.data = self.exact[name]
            texts, sums = own_texts(self.model, self.start), {}
            hook = lambda name: lambda _, inputs: add(sums, name, inputs[0])
            modules = [(n, m) for n, m in self.matrices.items() if part(n)[0] is not None]
            hooks = [module.register_forward_pre_hook(hook(name)) for name, module in modules]
            for text in texts:
                self.model.model(text[None])
            for hook in hooks:
                hook.remove()
            save_file({name: (s / (TEXTS * WINDOW)).float().numpy() for name, s in sums.items()}, file)
        return load_file(file)


def add(sums, name, inputs):
    squares = inputs.square().flatten(0, -2).sum(0, dtype=torch.float64)
    sums[name] = sums.get(name, 0) + squares


def own_texts(model, start):
    """Texts at temperature 1, each beginning like a prompt, with a token drawn from the vocabulary."""
    texts = []
    torch.manual_seed(0)
    model.generation_config.eos_token_id = None
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    for _ in range(0, TEXTS, TEXTS_AT_ONCE):
        first = torch.randint(model.config.vocab_size, (TEXTS_AT_ONCE, 1))
        first = torch.cat([torch.tensor([start] * TEXTS_AT_ONCE, dtype=torch.int64), first], 1)
        options["attention_mask"] = torch.ones_like(first)
        texts += model.generate(first, max_new_tokens=WINDOW - first.shape[1], **options)
    return texts


def part(name):
    """`model.layers.3.mlp.down_proj` → (3, "down_proj"); matrices outside of the layers have no number."""
    parts = name.split(".")
    return int(parts[2]) if "layers" in parts else None, parts[-1]


def run(*command):
    return subprocess.run(map(str, command), check=True, stdout=subprocess.PIPE).stdout


def commit():
    return run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").decode().strip()


if __name__ == "__main__":
    main()
