"""Sixty-four clients stream for a long time: random prompts, schemas, tools, disconnects.

Memory, descriptors and blocks of the cache have to stay as they are, and equal requests have equal answers. MINUTES
(default 1) is how long; PAUSE (default 0) the mean seconds that a client waits between two requests. Linux only.
"""

import json
import os
import random
import statistics
import tempfile
import threading
import time

import tiny
from harness import case, main
from server import Server, call
from talk import Talk

CLIENTS, SEED = 64, 3
MINUTES, PAUSE = float(os.environ.get("MINUTES", "1")), float(os.environ.get("PAUSE", "0"))
PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"]


def schema(i):
    fields = {f"name_{i}": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}, "of": {"enum": ["a", f"b{i}"]}}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def request(i):
    """The path and body of a request of many kinds."""
    chance = random.Random(i)
    path = PATHS[i % 4]
    text = "".join(chance.choices("abcdefgh ", k=chance.randrange(10, 1500)))
    body = {"model": "soak", "seed": i, "temperature": 0.8, "stream": True}
    size = chance.randrange(20, 200)
    if path == "/v1/completions":
        return path, body | {"prompt": text, "max_tokens": size, "ignore_eos": True}
    turns = [{"role": "user", "content": text}]
    if path == "/v1/responses":
        body |= {"input": turns, "max_output_tokens": size}
    else:
        body |= {"messages": turns, "max_tokens": size}
    kind = chance.choice(["plain", "schema", "tools", "required"])
    if kind == "schema" and path == "/v1/chat/completions":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(i % 400)}}
    if kind in ("tools", "required"):
        function = {"name": f"tool_{i % 300}", "description": "A tool"}
        given = {"/v1/messages": function | {"input_schema": schema(i % 300)}}
        given["/v1/responses"] = function | {"type": "function", "parameters": schema(i % 300)}
        given["/v1/chat/completions"] = {"type": "function", "function": function | {"parameters": schema(i % 300)}}
        body["tools"] = [given[path]]
        if kind == "required":
            body["tool_choice"] = {"type": "any"} if path == "/v1/messages" else "required"
    return path, body


class Soak:
    def __init__(self, server, end):
        self.server, self.end, self.lock = server, end, threading.Lock()
        self.answers, self.problems = {}, []
        self.counts = {"whole": 0, "left": 0, "failed": 0, "compared": 0}

    def client(self, number):
        chance = random.Random(SEED * 1000 + number)
        while time.monotonic() < self.end:
            try:
                self.one(chance)
            except Exception as error:
                self.count("failed", repr(error))
            if PAUSE:
                time.sleep(min(chance.expovariate(1 / PAUSE), max(0, self.end - time.monotonic())))

    def one(self, chance):
        i = chance.randrange(2000)
        path, body = request(i)
        one = Talk(self.server.url, path, body, timeout=900)
        leaves = chance.random() < 0.3
        if leaves and chance.random() < 0.3:
            one.send()
            time.sleep(chance.random() * 0.05)
        else:
            one.open()
            if one.status != 200:
                return self.count("failed", f"{i}: {one.status} {one.reply.read(300)}")
            seen, most = [], chance.randrange(1, 60) if leaves else 10**9
            for event in one.events():
                seen.append(event)
                if len(seen) == most:
                    break
            else:
                self.whole(i, path, seen)
                leaves = False
        one.close()
        self.count("left" if leaves else "whole")

    def whole(self, i, path, seen):
        """Compares an answer with earlier ones to the same request."""
        if "error" in seen[-1] or seen[-1].get("type") == "error":
            return self.count("failed", f"{i}: {seen[-1]}")
        text = "".join(map(said, seen))
        with self.lock:
            known = self.answers.get(i)
            self.answers[i] = hash(text)
            self.counts["compared"] += known is not None
            if known not in (None, hash(text)):
                self.problems.append(f"{i} on {path} has another answer: {text[:80]!r}")

    def count(self, what, problem=None):
        with self.lock:
            self.counts[what] += 1
            if problem:
                self.problems.append(problem)


def said(event):
    """What an event adds to an answer, without ids."""
    if event.get("choices"):
        choice = event["choices"][0]
        delta = choice.get("delta") or {}
        calls = "".join(c["function"].get("arguments", "") for c in delta.get("tool_calls", []))
        return choice.get("text", "") + (delta.get("content") or "") + (delta.get("reasoning_content") or "") + calls
    delta = event.get("delta")
    return json.dumps(delta, sort_keys=True) if isinstance(delta, (dict, str)) else ""


def memory(server):
    """Memory that is the process's own, in megabytes."""
    return (server.status("RssAnon") + server.status("VmSwap")) / 1024


def blocks(server):
    found = {name: value for (name, _), value in server.figures().items()}
    idle = all(found[f"nanoinfer_{name}"] == 0 for name in ("running", "waiting", "preempted"))
    return idle, found["nanoinfer_blocks"] - found["nanoinfer_free_blocks"]


def settle(server):
    """Waits until nothing runs. Returns the descriptors and blocks that are still in use."""
    end = time.monotonic() + 60
    while not blocks(server)[0] or server.descriptors() > server.baseline:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return server.descriptors(), blocks(server)[1]


@case
def nothing_grows():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as store:
        os.environ["NANOINFER_HOME"] = store
        model = tiny.make_with_tools(folder)
        options = ["--model", f"soak={model}", "--kv-mb", "8", "--cache-dir", f"{store}/prompts", "--cache-size", "64"]
        with Server(os.environ["NANOINFER_BINARY"], options) as server:
            assert call(server.url + "/health")[0] == 200
            time.sleep(1)
            server.baseline = server.descriptors()
            soak(server)


def soak(server):
    start = time.monotonic()
    run = Soak(server, start + MINUTES * 60)
    threads = [threading.Thread(target=run.client, args=(i,), daemon=True) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    samples, step = [], max(1.0, MINUTES * 60 / 120)
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(step, max(1.0, run.end - time.monotonic())))
        samples.append((time.monotonic() - start, memory(server), server.descriptors()))
        if len(samples) % 10 == 0:
            line = "{:.0f} s: {:.1f} MB, {} descriptors".format(*samples[-1])
            print(f"  {line}, {run.counts}, {server.cpu():.0f} s of CPU", flush=True)
    descriptors, held = settle(server)
    quarter = len(samples) // 4
    early = statistics.median(size for _, size, _ in samples[quarter : 2 * quarter] or samples)
    late = statistics.median(size for _, size, _ in samples[-quarter:] or samples)
    print(f"  {run.counts}; {early:.1f} MB in the second quarter, {late:.1f} MB in the last", flush=True)
    print(f"  descriptors {server.baseline} before, {descriptors} after; blocks held: {held:.0f}", flush=True)
    assert not run.problems, run.problems[:5]
    assert run.counts["whole"] and run.counts["left"]
    assert descriptors <= server.baseline and held == 0
    assert late - early < 8, (early, late)


if __name__ == "__main__":
    main()
