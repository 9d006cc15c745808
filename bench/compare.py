#!/usr/bin/env python3
"""Compares NanoInfer with its alternatives: llama.cpp, OpenVINO GenAI, PyTorch.

    python3 bench/compare.py                    everything: about two hours, three the first time
    python3 bench/compare.py run --rounds 1     one more round, added to the existing rounds
    python3 bench/compare.py run --engines nanoinfer,llama.cpp --fresh     measure these two again
    python3 bench/compare.py report             tables and plots from the existing rounds

The steps are setup (environment with the peers, models), run, quality, bits and report. pip installs the
peers into target/compare/venv and compiles llama.cpp for this CPU (with clang-16 if available: a
build by gcc 12 crashes on AMX). Needs 20 GB of disk and 12 GB of memory; quality and bits need npm.

In a round, every engine runs every test of every model once, each engine in its own process. The
order of the engines rotates from round to round. The limits of the machine are measured in every
round. The report shows the median over the rounds, with minimum and maximum.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "compare"
PYTHON = WORK / "venv" / "bin" / "python"
LLAMA_CPP = "llama-cpp-python==0.3.36"

# kind, tokens, depth, sequences
SPEED = [["pp", 512, 0, 1], ["tg", 128, 0, 1], ["tg", 32, 2000, 1], ["tg", 32, 0, 4]]
SWEEP = [["tg", 32, depth, 1] for depth in (500, 1000, 4000)]
SWEEP += [["tg", 32, 0, batch] for batch in (2, 8)]
TESTS = {"tinyllama": SPEED, "smollm2": SPEED + SWEEP}
# Lengths of prompt and answer in tokens, and a prompt of that length for each tokenizer.
START, PROMPT = (128, 32), {"tinyllama": "a" * 128, "smollm2": " the" * 128}
PEERS = {
    "llama.cpp": ("peer_llama.py", "model-q8_0.gguf"),
    "OpenVINO": ("peer_openvino.py", "openvino"),
    "PyTorch": ("peer_torch.py", "hf"),
}
ENGINES = ["nanoinfer", *PEERS]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = ["all", "setup", "run", "quality", "bits", "report"]
    parser.add_argument("step", nargs="?", choices=steps, default="all")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds to add (default: 5)")
    parser.add_argument("--engines", type=names(ENGINES), default=ENGINES, help=", ".join(ENGINES))
    parser.add_argument("--models", type=names(TESTS), default=list(TESTS), help=", ".join(TESTS))
    parser.add_argument("--fresh", action="store_true", help="discard earlier rounds of these engines and models")
    parser.add_argument("--threads", type=int, help="default: the number that `nanoinfer doctor` reports")
    parser.add_argument("--nanoinfer", type=pathlib.Path, help="path of the binary (default: build it)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "comparison")
    args = parser.parse_args()
    args.nanoinfer = (args.nanoinfer or build()).resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step in ("all", "setup"):
        setup(args)
    if args.step in ("all", "run"):
        run(args)
    if args.step in ("all", "quality"):
        python("quality.py", args.nanoinfer, WORK / "models" / "smollm2", text(), args.out / "quality.json")
    if args.step in ("all", "bits"):
        bits(args)
    if args.step in ("all", "report"):
        python("report.py", args.out)


def text():
    out = WORK / "text.txt"
    subprocess.run([sys.executable, ROOT / "bench/text.py", out], check=True)
    return out


def bits(args):
    """Files of 8 to 2 bits, of a model without traces of an earlier quantization."""
    model = WORK / "models" / "smollm2-shuffled.gguf"
    if not model.exists():
        python("shuffle.py", WORK / "models" / "smollm2" / "source.gguf", model)
    options = ["--nanoinfer", args.nanoinfer, "--text", text(), "--work", WORK / "bits"]
    options += ["--fresh"] if args.fresh else []
    python("bits.py", model, args.out / "bits.json", "--name", "SmolLM2-135M-Instruct, shuffled", *options)


def names(known):
    def parse(text):
        chosen = text.split(",")
        unknown = set(chosen) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; expected {', '.join(known)}")
        return chosen

    return parse


def build():
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "nanoinfer"


def python(script, *args):
    subprocess.run([PYTHON, ROOT / "bench" / script, *args], check=True)


def setup(args):
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", PYTHON.parent.parent], check=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", ROOT / "bench" / "requirements.txt"], check=True)
    clang = subprocess.run(["which", "clang-16"], capture_output=True).returncode == 0
    compiler = {"CC": "clang-16", "CXX": "clang++-16"} if clang else {}
    native = os.environ | compiler | {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
    # pip's cache may hold a wheel built with another compiler.
    pip += ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
    subprocess.run([*pip, LLAMA_CPP], env=native, check=True)
    python("models.py", WORK / "models", args.nanoinfer)


def run(args):
    log = args.out / "rounds.jsonl"
    lines = [json.loads(l) for l in log.read_text().splitlines()] if log.exists() else []
    if args.fresh:
        stale = lambda l: l["engine"] in args.engines and l["model"] in args.models
        lines = [l for l in lines if not stale(l)]
        log.write_text("".join(json.dumps(l) + "\n" for l in lines))
    version = versions(args)
    for number in range(args.rounds):
        turn = len(lines) + number
        limits = json.loads(output([args.nanoinfer, "doctor", "--json"]))
        threads = args.threads or limits["threads"]["used"]
        for model in args.models:
            for i in range(len(args.engines)):
                engine = args.engines[(i + turn) % len(args.engines)]
                line = {"date": now(), "engine": engine, "model": model, "threads": threads}
                line |= {"version": version[engine], "limits": limits["roofline"]}
                print(f"round {number + 1}: {model}, {engine}", file=sys.stderr, flush=True)
                line |= measure(args, engine, model, threads)
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    machine = limits["machine"] | {"memory": limits["memory"], "isa": limits["isa"]}
    machine |= {"kernel": platform.release(), "threads": limits["threads"]}
    (args.out / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions(args):
    commit = output(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).strip()
    command = "import importlib.metadata as m; print(*map(m.version, %r))"
    packages = ["llama-cpp-python", "openvino-genai", "torch", "transformers"]
    llama, openvino, torch, transformers = output([PYTHON, "-c", command % packages]).split()
    return {
        "nanoinfer": commit,
        "llama.cpp": f"llama-cpp-python {llama}",
        "OpenVINO": f"openvino-genai {openvino}",
        "PyTorch": f"torch {torch}, transformers {transformers}",
    }


def output(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(args, engine, model, threads):
    """One engine's figures: tokens per second of each test, and the cost of starting it."""
    home = WORK / "models" / model
    if engine == "nanoinfer":
        return nanoinfer(args.nanoinfer, home / "model.nano", model, threads)
    script, file = PEERS[engine]
    command = [PYTHON, ROOT / "bench/engines" / script, home / file, "--threads", threads]
    speeds, _, peak = child([*command, "--tests", json.dumps(few(engine, TESTS[model]))])
    start, total, start_peak = child([*command, "--start", ",".join(map(str, START))])
    start |= {"total_s": total, "peak_mb": start_peak}
    return {"tps": canonical(speeds), "start": start, "peak_mb": peak}


def few(engine, tests):
    """Fewer tests for PyTorch, which is slow: a quarter of the tokens, and no sweeps."""
    if engine != "PyTorch":
        return tests
    return [[kind, n if kind == "pp" else n // 4, d, b] for kind, n, d, b in SPEED]


def canonical(speeds):
    """Drops the number of tokens from the names of the tests, so that engines can be compared."""
    short = lambda name: name.replace("tg128", "tg").replace("tg32", "tg").replace("tg8", "tg")
    return {short(name): tps for name, tps in speeds.items()}


def nanoinfer(binary, file, model, threads):
    """Runs NanoInfer's own benchmark in groups, because one run combines all its depths and batches."""
    speeds, peak = {}, 0
    tests = TESTS[model]
    depths = sorted({d for kind, _, d, _ in tests if d})
    batches = sorted({b for kind, _, _, b in tests if b > 1})
    listed = lambda values: ",".join(map(str, values))
    for chosen in [
        ["-p", 512, "-n", 128],
        ["-p", 0, "-n", 32, "-d", listed(depths)],
        ["-p", 0, "-n", 32, "-b", listed(batches)],
    ]:
        command = [binary, "bench", "--model", file, "-r", 1, "-t", threads, "-o", "json", *chosen]
        rows, _, used = child(command)
        speeds |= {row["test"]: row["tps"] for row in rows}
        peak = max(peak, used)
    command = [binary, "generate", "--model", file, "--prompt", PROMPT[model], "-n", START[1]]
    command += ["--ignore-eos", "--temp", 0, "--threads", threads, "--json"]
    answer, total, start_peak = child(command)
    assert len(answer["prompt_tokens"]) == START[0], answer["prompt_tokens"]
    timings = answer["timings"]
    load = timings["load_ms"] / 1e3
    first = load + timings["ttft_ms"] / 1e3
    start = {"load_s": load, "ready_s": load, "first_token_s": first}
    start |= {"total_s": total, "peak_mb": start_peak}
    return {"tps": canonical(speeds), "start": start, "peak_mb": peak}


def child(command):
    """Runs a program; returns the JSON it prints, the elapsed seconds, and its peak resident memory in MB."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        environment = os.environ | {"COMPARE_START": str(time.time())}
        begin = time.perf_counter()
        process = subprocess.Popen(map(str, command), stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        text = out.read().decode()
        if process.returncode != 0:
            last = "\n".join(err.read().decode(errors="replace").splitlines()[-5:])
            sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{last}")
    return json.loads(text.splitlines()[-1]), seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
