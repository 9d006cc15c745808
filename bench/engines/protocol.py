"""The interface of the peers: their tests and their output.

A peer is a program that receives a model and tests, and prints one JSON object:

    python peer.py MODEL --threads 2 --tests '[["pp",512,0,1],["tg",32,2000,1]]'
    python peer.py MODEL --threads 2 --start 128,32        load, prompt, answer: as a user would

A test is (kind, tokens, depth, batch), as in `nanoinfer bench`. Tokens are random; nothing is
sampled, and no text is produced. Filling the context before a test is not timed. Every test runs
once, after a warm-up of one token.
"""

import argparse
import json
import os
import random
import time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tests", type=json.loads, default=[])
    parser.add_argument("--start", help="lengths of prompt and answer, in tokens")
    return parser.parse_args()


def tokens(n, vocab, seed=1):
    """Random ordinary tokens: the first ids are control tokens in every vocabulary here."""
    draw = random.Random(seed)
    return [draw.randrange(300, vocab) for _ in range(n)]


def name(test):
    kind, n, depth, batch = test
    return f"{kind}{n}" + (f"x{batch}" if batch > 1 else "") + (f"@d{depth}" if depth else "")


def since_start():
    """Seconds since the process was started, including the start of Python."""
    return time.time() - float(os.environ["COMPARE_START"])


def serve(engine_class):
    """Runs the requested tests with `engine_class(model, threads, room, batch)`. It has `vocab`,
    `forget()`, `prefill(ids, batch)`, `decode(n, batch)`, which may return the seconds that it
    measured itself, and `context(ids, batch)`, which prepares for `decode` and is not timed."""
    args = arguments()
    if args.start:
        prompt, answer = map(int, args.start.split(","))
        begin = time.perf_counter()
        engine = engine_class(args.model, args.threads, prompt + answer, 1)
        load, ready = time.perf_counter() - begin, since_start()
        engine.prefill(tokens(prompt, engine.vocab), 1)
        first = since_start()
        engine.decode(answer, 1)
        print(json.dumps({"load_s": load, "ready_s": ready, "first_token_s": first}))
        return
    engine, made_for, result = None, None, {}
    for test in sorted(args.tests, key=lambda test: test[3]):
        kind, n, depth, batch = test
        # A context for many sequences may be slower for one: with PER_BATCH, each batch has its own.
        if engine is None or (engine_class.PER_BATCH and batch != made_for):
            alike = [t for t in args.tests if t[3] == batch or not engine_class.PER_BATCH]
            room, made_for = max(n + depth for _, n, depth, _ in alike) + 8, batch
            engine = None  # free the previous engine first
            engine = engine_class(args.model, args.threads, room, max(b for *_, b in alike))
            engine.context(tokens(4, engine.vocab), 1)
            engine.decode(1, 1)
        engine.forget()
        if kind == "pp":
            ids = tokens(n, engine.vocab)
            begin = time.perf_counter()
            engine.prefill(ids, 1)
            seconds = time.perf_counter() - begin
        else:
            # A context of at least one token, so that only single steps are timed.
            engine.context(tokens(max(depth, 1), engine.vocab), batch)
            begin = time.perf_counter()
            timed = engine.decode(n, batch)
            seconds = timed or time.perf_counter() - begin
        result[name(test)] = n * batch / seconds
    print(json.dumps(result))
