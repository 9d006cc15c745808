#!/usr/bin/env python3
"""Compares Python threads that share a model with a `Batch` in Rust, in turns.

    cargo build --release -p nanoinfer-serve --example shared
    python3 bench/python_threads.py target/release/examples/shared MODEL.nano [ROUNDS]

Needs the package `nanoinfer`. Prints the tokens per second of 8 answers of 128 tokens: of the batch, of threads in Rust,
of threads in Python that read whole answers, and of threads that read streams; then the medians of their ratios to
the batch.
"""

import statistics
import subprocess
import sys
import threading
import time

import nanoinfer

ANSWERS, TOKENS = 8, 128


def ask(model, i, is_stream):
    options = {"max_tokens": TOKENS, "temperature": 1, "seed": i, "ignore_eos": True}
    if is_stream:
        stream = model.stream(f"Story number {i}: ", **options)
        for _ in stream:
            pass
        answer = stream.answer
    else:
        answer = model.generate(f"Story number {i}: ", **options)
    assert len(answer.tokens) == TOKENS


def speed(model, is_stream):
    threads = [threading.Thread(target=ask, args=(model, i, is_stream)) for i in range(ANSWERS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ANSWERS * TOKENS / (time.perf_counter() - start)


def main():
    program, path = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    ratios = []
    with nanoinfer.Model.open(path, ctx=1024, sequences=ANSWERS) as model:
        speed(model, False)
        for _ in range(rounds):
            done = subprocess.run([program, path, str(ANSWERS), str(TOKENS), "1"], capture_output=True, text=True, check=True)
            batch, rust = map(float, done.stdout.split())
            speeds = [batch, rust, speed(model, False), speed(model, True)]
            print(*(f"{x:8.1f}" for x in speeds))
            ratios.append([x / batch for x in speeds[1:]])
    print("        ", *(f"{statistics.median(column):8.3f}" for column in zip(*ratios)))


if __name__ == "__main__":
    main()
