"""Turns rounds into results: comparison.json, tables in comparison.md, and plots.

    report.py FOLDER        a folder filled by compare.py
"""

import json
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ORDER = ["PyTorch", "OpenVINO", "llama.cpp", "nanoinfer"]
NAMES = {"nanoinfer": "NanoInfer q8", "llama.cpp": "llama.cpp Q8_0"}
NAMES |= {"OpenVINO": "OpenVINO GenAI int8", "PyTorch": "PyTorch float32"}
COLOURS = {"nanoinfer": "#c2410c", "llama.cpp": "#1d4ed8", "OpenVINO": "#7c3aed", "PyTorch": "#6b7280"}
MODELS = {"tinyllama": "TinyLlama-1.1B's shape", "smollm2": "SmolLM2-135M-Instruct"}
TESTS = {
    "pp512": "prompt of 512 tokens, tokens/s",
    "tg": "decoding, tokens/s",
    "tg@d2000": "decoding after 2000 tokens of context, tokens/s",
    "tgx4": "decoding 4 sequences at once, tokens/s",
}
START = {
    "load_s": "loading, s",
    "ready_s": "start-up to ready, s",
    "first_token_s": "start-up to first token, s",
    "peak_mb": "peak memory, MB",
}
CALIBRATION = {"": "–", "none": "none", "own text": "own text", "matrix": "importance matrix"}
FEW_BITS = """\
Divergence from float32 at all positions of {windows} windows of {window} tokens; median (minimum–maximum) over {seeds} seeds of
calibration. Bits per weight include scales; "all" is what a token reads: the matrices of the layers, and the
output layer. NanoInfer runs the files that `convert --quant` writes. The K-quants are by llama.cpp's quantizer, with
its choice of encodings, on joined rows: for rows of 576 weights, its own files have formats with more bits. They run
in float32. The model in float32 was made from a Q4_1 file, whose groups of weights were separated by
permutations that do not change its results. `python3 bench/compare.py bits` measures all of it again.
[Benchmarks](../BENCHMARKS.md) has their speed, and other models and texts.\
"""
PARAMETERS = {"tinyllama": 1100048384, "smollm2": 134515008}
BYTES = {"nanoinfer": 1.0, "llama.cpp": 1.0625, "OpenVINO": 1.0, "PyTorch": 4.0}


def main():
    folder = pathlib.Path(sys.argv[1])
    rounds = [json.loads(l) for l in (folder / "rounds.jsonl").read_text().splitlines()]
    machine = json.loads((folder / "machine.json").read_text())
    quality = folder / "quality.json"
    quality = json.loads(quality.read_text()) if quality.exists() else None
    few = folder / "bits.json"
    few = summarize_seeds(json.loads(few.read_text())) if few.exists() else None
    results = summarize(rounds)
    whole = {"machine": machine, "versions": versions(rounds), "results": results}
    whole |= {"dates": dates(rounds), "limits": limits(rounds), "quality": quality}
    (folder / "comparison.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / "comparison.md").write_text(markdown(whole, few))
    style()
    bars(results, folder / "speed.svg")
    lines(results, "tg@d{}", [0, 500, 1000, 2000, 4000], "tokens in the context", folder / "depth.svg")
    lines(results, "tgx{}", [1, 2, 4, 8], "sequences at once", folder / "batch.svg")
    roofline(results, whole["limits"], folder / "roofline.svg")
    if quality:
        bits(quality, folder / "quality.svg")
    if few:
        few_bits(few, folder / "bits.svg")


def summarize(rounds):
    """{model: {engine: {figure: [median, minimum, maximum, rounds]}}}"""
    values = {}
    for r in rounds:
        into = values.setdefault(r["model"], {}).setdefault(r["engine"], {})
        for name, value in (r["tps"] | r["start"]).items():
            into.setdefault(name, []).append(value)
    spread = lambda v: [statistics.median(v), min(v), max(v), len(v)]
    return {
        model: {e: {n: spread(v) for n, v in f.items()} for e, f in engines.items()}
        for model, engines in values.items()
    }


def summarize_seeds(few):
    """Merges rows that differ only in the seed of calibration: each KL becomes [median, minimum, maximum]."""
    (text,) = few["windows"]
    groups = {}
    for r in few["rows"]:
        calibration = "own text" if r["calibration"].startswith("seed") else r["calibration"]
        groups.setdefault((r["engine"], r["weights"], calibration), []).append(r)
    rows = []
    for (engine, weights, calibration), found in groups.items():
        row = {"engine": engine, "weights": weights, "calibration": calibration, "seeds": len(found)}
        row |= {key: found[0][key] for key in ("bits_linears", "bits_all", "version")}
        for key in ("mean", "median"):
            values = [r["kl"][text][key] for r in found]
            row[key] = [statistics.median(values), min(values), max(values)]
        rows.append(row)
    return few | {"rows": rows}


def versions(rounds):
    found = {}
    for r in rounds:
        found.setdefault(r["engine"], []).append(r["version"])
    return {engine: sorted(set(v)) for engine, v in found.items()}


def dates(rounds):
    found = [r["date"] for r in rounds]
    return [min(found), max(found)]


def limits(rounds):
    """For each limit, the median over the rounds of the round's median, with minimum and maximum."""
    values = {key: [r["limits"][key][0] for r in rounds] for key in ("bandwidth", "int8")}
    return {key: [statistics.median(v), min(v), max(v)] for key, v in values.items()}


def markdown(whole, few):
    m, limit = whole["machine"], whole["limits"]
    threads = m["threads"]["used"]
    text = [
        "# Comparison\n",
        f"{m['cpu']}, {m['isa']['used']}, {threads} cores, {threads} threads; {whole['dates'][0]} to "
        f"{whole['dates'][1]}. Memory {limit['bandwidth'][0] / 1e9:.1f} GB/s "
        f"({limit['bandwidth'][1] / 1e9:.1f}–{limit['bandwidth'][2] / 1e9:.1f}), int8 "
        f"{limit['int8'][0] / 1e12:.2f} TOPS. Versions: "
        + "; ".join(f"{e} {', '.join(v)}" for e, v in whole["versions"].items())
        + ". Median (minimum–maximum) of the rounds.",
    ]
    for model, engines in whole["results"].items():
        present = [e for e in ORDER if e in engines]
        text += ["", f"| {MODELS[model]} | " + " | ".join(NAMES[e] for e in present) + " |"]
        text += ["|---|" + "---:|" * len(present)]
        for key, name in (TESTS | START).items():
            cells = [cell(engines[e].get(key)) for e in present]
            text += [f"| {name} | " + " | ".join(cells) + " |"]
        counts = {e: engines[e]["tg"][3] for e in present}
        text += ["| rounds | " + " | ".join(str(counts[e]) for e in present) + " |"]
    if whole["quality"]:
        text += ["", "| SmolLM2-135M-Instruct | bits per weight | mean KL | p99 KL | same top token |"]
        text += ["|---|---:|---:|---:|---:|"]
        for r in whole["quality"]["rows"]:
            name = NAMES[r["engine"]].split()[0] + " " + r["weights"]
            text += [
                f"| {name} | {r['bits_per_weight']:.2f} | {r['mean_kl']:.5f} | "
                f"{r['p99_kl']:.4f} | {100 * r['top1']:.1f} % |"
            ]
        text += [
            "",
            "Divergence is relative to transformers in float32, over all positions of 4 windows of 512 tokens. The",
            "float32 model was itself made from a Q4_1 file. Its rows have 576 weights, not a multiple of 256, so",
            "llama.cpp stores parts of the K-quants in other formats.",
        ]
    if few:
        text += few_bits_table(few)
    pictures = {
        "speed": "Tokens per second, with minimum and maximum",
        "depth": "Decoding speed versus context length",
        "batch": "Decoding speed versus number of sequences",
        "roofline": "Each engine compared with the limits of the machine",
    }
    if whole["quality"]:
        pictures["quality"] = "Divergence from float32 versus bits per weight"
    if few:
        pictures["bits"] = "Divergence from float32 of 8- to 2-bit files versus bits per weight"
    text += [f"\n![{alt}]({name}.svg)" for name, alt in pictures.items()]
    return "\n".join(text) + "\n"


def few_bits_table(few):
    """Rows in descending order of bits."""
    ours, peers = versions_of(few, "NanoInfer"), versions_of(few, "llama.cpp")
    (windows,) = few["windows"].values()
    seeds = max(r["seeds"] for r in few["rows"])
    text = ["", "## Fewer bits", "", f"{few['model']}. {few['cpu']}, {few['date']}. NanoInfer {ours}; {peers}.", ""]
    text += ["| weights | calibration | bits, layers | bits, all | mean KL | median KL |", "|---|---|---:|---:|---:|---:|"]
    for r in sorted(few["rows"], key=lambda r: -r["bits_all"]):
        name = f"{r['engine']} {r['weights']}"
        numbers = f"{r['bits_linears']:.2f} | {r['bits_all']:.2f} | {spread(r['mean'])} | {spread(r['median'])}"
        text += [f"| {name} | {CALIBRATION[r['calibration']]} | {numbers} |"]
    return text + ["", *FEW_BITS.format(windows=windows, window=few["window"], seeds=seeds).splitlines()]


def versions_of(few, engine):
    return ", ".join(sorted({r["version"] for r in few["rows"] if r["engine"] == engine}))


def spread(values):
    median, least, most = values
    digits = lambda x: f"{x:.4f}" if x < 0.1 else f"{x:.3f}"
    return digits(median) if least == most else f"{digits(median)} ({digits(least)}–{digits(most)})"


def cell(value):
    if value is None:
        return "–"
    form = lambda x: f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2g}"
    median, least, most, _ = value
    return f"{form(median)} ({form(least)}–{form(most)})"


def style():
    matplotlib.rcParams |= {
        "svg.hashsalt": "nanoinfer",  # same numbers, same picture
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "savefig.bbox": "tight",
    }


def save(figure, path):
    figure.patch.set_facecolor("white")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def bars(results, path):
    """One panel per test and model, with a bar per engine and error bars from minimum to maximum."""
    models = [m for m in MODELS if m in results]
    figure, axes = plt.subplots(
        len(models), len(TESTS), figsize=(12, 2.1 * len(models)), squeeze=False, layout="constrained"
    )
    titles = ["prompt of 512", "decoding", "after 2000 tokens", "4 sequences"]
    for row, model in zip(axes, models):
        engines = [e for e in ORDER if e in results[model]]
        for axis, key, title in zip(row, TESTS, titles):
            for y, e in enumerate(engines):
                median, least, most, _ = results[model][e][key]
                error = [[median - least], [most - median]]
                axis.barh(y, median, color=COLOURS[e], xerr=error, ecolor="black", capsize=2)
                label = f"{median:.0f}" if median >= 10 else f"{median:.1f}"
                axis.annotate(
                    label, (most, y), textcoords="offset points", xytext=(4, 0), va="center", fontsize=8
                )
            axis.set_yticks(range(len(engines)), [NAMES[e] for e in engines])
            axis.tick_params(labelleft=axis is row[0])
            axis.margins(x=0.2)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("tokens/s")
        row[0].set_ylabel(MODELS[model].split("-")[0])
    save(figure, path)


def lines(results, form, at, label, path):
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for e in reversed([e for e in ORDER if e in results["smollm2"]]):
        figures = results["smollm2"][e]
        named = [("tg" if x == at[0] else form.format(x), x) for x in at]
        points = [(x, *figures[name][:3]) for name, x in named if name in figures]
        x, median, least, most = zip(*points)
        axis.plot(x, median, "o-", color=COLOURS[e], label=NAMES[e], markersize=4)
        axis.fill_between(x, least, most, color=COLOURS[e], alpha=0.2, linewidth=0)
    axis.set_xticks(at)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(label)
    axis.set_ylabel("tokens/s")
    axis.set_title("SmolLM2-135M-Instruct", fontsize=10)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    save(figure, path)


def roofline(results, limit, path):
    """Operations per second versus operations per byte of weights, without the KV cache."""
    figure, axis = plt.subplots(figsize=(6.4, 4))
    bandwidth, int8 = limit["bandwidth"][0] / 1e9, limit["int8"][0] / 1e9
    ridge = int8 / bandwidth
    x = [0.2, ridge, 5000]
    axis.plot(x, [0.2 * bandwidth, int8, int8], color="black", linewidth=1.5)
    axis.annotate(f"memory {bandwidth:.0f} GB/s", (0.25, 0.36 * bandwidth), rotation=35, fontsize=8)
    axis.annotate(f"int8 {int8:.0f} GOPS", (60, int8 * 1.1), fontsize=8)
    weights = PARAMETERS["tinyllama"]
    for e in [e for e in ORDER if e in results["tinyllama"]]:
        figures = results["tinyllama"][e]
        for key, tokens, marker in [("tg", 1, "o"), ("tgx4", 4, "s"), ("pp512", 512, "^")]:
            gops = 2 * weights * figures[key][0] / 1e9
            axis.plot(2 * tokens / BYTES[e], gops, marker, color=COLOURS[e], markersize=6)
        axis.plot([], [], "o", color=COLOURS[e], label=NAMES[e])
    for marker, name in [("o", "decoding"), ("s", "4 sequences"), ("^", "prompt of 512")]:
        axis.plot([], [], marker, color="white", markeredgecolor="black", label=name)
    axis.set_xscale("log"), axis.set_yscale("log")
    axis.set_xlabel("operations per byte of weights read")
    axis.set_ylabel("giga-operations per second")
    axis.set_title("TinyLlama-1.1B's shape", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")
    save(figure, path)


def bits(quality, path):
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for r in quality["rows"]:
        e = r["engine"]
        axis.plot(r["bits_per_weight"], r["mean_kl"], "o", color=COLOURS[e])
        axis.annotate(
            f"{NAMES[e].split()[0]} {r['weights']}", (r["bits_per_weight"], r["mean_kl"]),
            textcoords="offset points", xytext=(6, -11 if e == "nanoinfer" else 4), fontsize=8,
            color=COLOURS[e],
        )
    axis.set_yscale("log")
    axis.margins(x=0.25, y=0.15)
    axis.set_xlabel("bits per weight")
    axis.set_ylabel("mean KL divergence from float32, nats")
    axis.set_title("SmolLM2-135M-Instruct", fontsize=10)
    save(figure, path)


def few_bits(few, path):
    """KL versus bits, with a line through the calibrated files of each engine."""
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for engine, colour in (("NanoInfer", COLOURS["nanoinfer"]), ("llama.cpp", COLOURS["llama.cpp"])):
        rows = sorted((r for r in few["rows"] if r["engine"] == engine), key=lambda r: r["bits_all"])
        line = [r for r in rows if r["calibration"] != "none" and not r["weights"].startswith("IQ")]
        axis.plot([r["bits_all"] for r in line], [r["mean"][0] for r in line], color=colour, linewidth=1)
        for r in rows:
            median, least, most = r["mean"]
            plain = r["calibration"] == "none"
            axis.errorbar(
                r["bits_all"], median, yerr=[[median - least], [most - median]], fmt="o", color=colour, capsize=2,
                markerfacecolor="white" if plain else colour,
            )
            left = engine == "NanoInfer" or r["weights"].startswith("IQ")
            place = (-6, 4 if plain else -9) if left else (6, 4)
            axis.annotate(
                r["weights"], (r["bits_all"], median), textcoords="offset points", xytext=place,
                ha="right" if left else "left", fontsize=8, color=colour,
            )
        axis.plot([], [], "o-", color=colour, label=engine)
    axis.plot([], [], "o", color="white", markeredgecolor="black", label="not calibrated")
    axis.set_yscale("log")
    axis.margins(x=0.12, y=0.12)
    axis.set_xlabel("bits per weight that a token reads")
    axis.set_ylabel("mean KL divergence from float32, nats")
    axis.set_title(few["model"], fontsize=10)
    axis.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    main()
