"""Helpers of the complaints: servers, requests, and how much is asked."""

import contextlib
import os
import random
import tempfile
import threading
import time

import tiny
from harness import MODEL, URL
from server import Server, call, figures
from talk import Talk, talk  # noqa: F401: for those who import from here

FULL = os.environ.get("COUNTS") == "full"
BINARY = os.environ.get("NANOINFER_BINARY", "")
SERVED = os.environ.get("NANOINFER_MODEL", "")
CHAT, COMPLETIONS, RESPONSES, MESSAGES, OLLAMA = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/api/chat",
)


def count(short, full):
    """A number that depends on COUNTS."""
    return full if FULL else short


def say(text):
    print("  " + text, flush=True)


@contextlib.contextmanager
def own(*args, model=SERVED, keys=None):
    """A server of its own. `keys` are the lines of a file of keys."""
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
        if keys:
            file.write("\n".join(keys) + "\n")
            file.flush()
            args = (*args, "--keys", file.name)
        with Server(BINARY, ["--model", f"{MODEL}={model}", *args]) as server:
            yield server


@contextlib.contextmanager
def tiny_model(make=tiny.make_with_tools, **options):
    """The folder of a tiny model, whose converted form is not kept."""
    before = os.environ.get("NANOINFER_HOME")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        os.environ["NANOINFER_HOME"] = home
        try:
            yield make(folder, **options)
        finally:
            os.environ.pop("NANOINFER_HOME")
            if before is not None:
                os.environ["NANOINFER_HOME"] = before


@contextlib.contextmanager
def own_tiny(*args, make=tiny.make_with_tools, keys=None, **options):
    """A server with a tiny model."""
    with tiny_model(make, **options) as model, own(*args, model=model, keys=keys) as server:
        yield server


def prompt(tokens, seed):
    """A prompt of so many tokens, which shares no block with those of other seeds."""
    chance = random.Random(seed)
    return [chance.randrange(300, 20_000) for _ in range(tokens)]


def completing(tokens, seed, max_tokens=1, **fields):
    """A request that continues a prompt of its own, whatever the model says."""
    body = {"model": MODEL, "prompt": prompt(tokens, seed), "max_tokens": max_tokens, "ignore_eos": True}
    return body | {"seed": 1, "temperature": 1.0} | fields


def asked(text, **fields):
    """A conversation of one turn."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "seed": 5} | fields


def good(path, body, url=URL, headers=None):
    """The answer to a request that must succeed."""
    status, _, answer = call(url + path, body, headers)
    assert status == 200, (status, answer)
    return answer


def figure(url, name, key=None):
    """The value of a figure, summed over its labels."""
    found = [v for (n, _), v in figures(url, key).items() if n == f"nanoinfer_{name}"]
    assert found, f"there is no figure {name}"
    return sum(found)


def is_free(url):
    """Whether nothing runs, and no block of the cache is held."""
    found = {name.removeprefix("nanoinfer_"): value for (name, _), value in figures(url).items()}
    idle = all(found[name] == 0 for name in ("running", "waiting", "preempted", "rows"))
    return idle and found["free_blocks"] == found["blocks"]


def until(condition, seconds=60):
    """Waits for a condition. Returns how many seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it does not happen"
        time.sleep(0.002)
    return time.monotonic() - start


def at_once(function, arguments):
    """Calls a function in a thread for each argument. Returns the values in their order."""
    found, failed = [None] * len(arguments), []

    def one(i, argument):
        try:
            found[i] = function(argument)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in enumerate(arguments)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


def percentile(values, share):
    """The value below which this share of them is."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]

