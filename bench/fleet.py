#!/usr/bin/env python3
"""How many users several servers can have: a simulation, its constants, and what it is checked against.

    fleet.py measure BINARY MODEL OUT.json [--threads N]
    fleet.py check BINARY MODEL CONSTANTS.json [--replicas N] [--threads N] [--rate R]
    fleet.py ray MODEL [--replicas N] [--threads N] [--rate R] [--conversations N]
    fleet.py predict CONSTANTS.json [--replicas 1,2,10,100,1000] [--rate R] [--svg OUT.svg]

`measure` times the passes of one server. `check` plays conversations to real servers and to simulated ones, with the
same router. `ray` plays them to replicas on Ray, with its own router and with that of nanoinfer.ray, which has to be
installed. `predict` simulates more of them.

A replica is a queue of prompts and a set of answers. A pass takes a row for every answer and, within 150 ms, prompts; its
time depends on the number of its rows and on how far back they look. A cache keeps the conversations used last. RATE
is in new conversations per minute and replica.
"""

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import threading
import time
import urllib.request
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

BLOCK, MAX_ROWS, PASS_S = 64, 256, 0.150
SECONDS = 600  # of a simulated trace
STREAMS = (1, 2, 4, 8, 16, 32, 64)
DEEP = 3000  # tokens of a long prompt


@dataclass
class Constants:
    """Of one replica."""

    pass_s: list  # [[rows, seconds], …] of passes near the beginning of contexts
    depth_s: float  # more for each position that an answer's token attends to
    prompt_depth_s: float  # more for each position that a prompt's token attends to
    http_s: float  # from a request to its pass, and from a pass to the client
    kv_tokens: int  # that the cache holds
    sequences: int = 64

    def rows_s(self, rows):
        """The seconds of a pass, interpolated."""
        table = self.pass_s
        after = next((i for i, (n, _) in enumerate(table) if n >= rows), len(table) - 1)
        (n0, s0), (n1, s1) = table[max(after, 1) - 1], table[max(after, 1)]
        return max(s0 + (s1 - s0) * (rows - n0) / (n1 - n0), table[0][1])

    def prompt_s(self, tokens):
        """The seconds that a prompt takes alone."""
        whole, rest = divmod(tokens, MAX_ROWS)
        return whole * self.rows_s(MAX_ROWS) + (self.rows_s(rest) if rest else 0)


@dataclass
class Turn:
    """One request of a conversation."""

    conversation: int
    at: float
    known: int  # tokens of the conversation so far, as far as they can be cached
    prompt: int  # all tokens of the request
    answer: int
    first: bool
    system: int = 0  # which system prompt it begins with
    system_tokens: int = 0
    # Results.
    cached: int = 0
    first_token: float = math.nan
    end: float = math.nan
    replica: int = -1


def conversations(rate, seconds, seed, scale=1.0, returned=True):
    """Conversations, `rate` new ones per second: a list of turns each, of which the first has the time when it begins,
    and the others that to think before them. `scale` shortens texts and times. Without `returned`, the answers in later
    prompts are not those of the server, so that they are not cached."""
    chance = random.Random(seed)
    size = lambda mean: max(8, int(scale * chance.lognormvariate(math.log(mean) - 0.32, 0.8)))
    at, made = 0.0, []
    while True:
        at += chance.expovariate(rate)
        if at > seconds:
            return made
        # Few system prompts are used by many.
        system = min(int(chance.paretovariate(1.0)), 20)
        system_tokens, known, length, turns = int(scale * 64 * (2 + system % 8)), 0, 0, []
        for turn in range(1 + min(int(chance.expovariate(1 / 4)), 12)):
            prompt = (length or system_tokens) + size(120)
            answer = size(120)
            think = chance.expovariate(1 / (20 * scale)) if turn else at
            turns.append(Turn(len(made), think, known, prompt, answer, not turn, system, system_tokens))
            length = prompt + answer
            known = length if returned else prompt
        made.append(turns)


class Cache:
    """Which conversations, and which beginnings that several share, a replica can reuse: the least recently used is
    evicted first."""

    def __init__(self, tokens):
        self.room, self.used, self.kept = tokens, 0, OrderedDict()

    def find(self, turn):
        """The number of tokens that need not be computed."""
        own = self.kept.get(("conversation", turn.conversation), 0)
        shared = self.kept.get(("system", turn.system), 0)
        found = max(min(own, turn.known), min(shared, turn.system_tokens))
        return min(found, turn.prompt - 1) // BLOCK * BLOCK

    def keep(self, turn):
        for key, tokens in (
            (("system", turn.system), turn.system_tokens),
            (("conversation", turn.conversation), turn.prompt + turn.answer),
        ):
            self.used += tokens - self.kept.pop(key, 0)
            self.kept[key] = tokens
        while self.used > self.room:
            self.used -= self.kept.popitem(last=False)[1]


class Replica:
    """A server, pass by pass."""

    def __init__(self, index, constants):
        self.index, self.c, self.cache = index, constants, Cache(constants.kv_tokens)
        self.waiting, self.reading, self.answers = [], [], []  # answers: heap of (last pass, turn)
        self.passes, self.depth, self.busy = 0, 0, False

    def load(self):
        return len(self.waiting) + len(self.reading) + len(self.answers)

    def queued(self):
        """Tokens of prompts that are not read yet."""
        return sum(left for left, _ in self.reading) + sum(turn.prompt for turn in self.waiting)

    def add(self, turn):
        turn.replica = self.index
        self.waiting.append(turn)

    def start(self):
        """Plans a pass. Returns its seconds, or None if there is nothing to do."""
        while self.waiting and len(self.reading) + len(self.answers) < self.c.sequences:
            turn = self.waiting.pop(0)
            turn.cached = self.cache.find(turn)
            self.reading.append([turn.prompt - turn.cached, turn])
        self.busy = bool(self.reading or self.answers)
        if not self.busy:
            return None
        decoding = len(self.answers)
        deep = self.depth * self.c.depth_s
        self.reading.sort(key=lambda pair: pair[0])
        room, self.read = MAX_ROWS - decoding, []
        if decoding and self.reading:
            fits = lambda rows: self.c.rows_s(rows) + deep <= PASS_S
            room = next((n for n in (192, 128, 96, 64, 48, 32, 16) if fits(decoding + n)), 8)
        for pair in self.reading:
            n = min(pair[0], room)
            if not n:
                break
            self.read.append((pair, n))
            room -= n
        prompts = sum(n for _, n in self.read)
        before = sum(n * (turn.prompt - left + n / 2) for (left, turn), n in self.read)
        deep += before * self.c.prompt_depth_s
        return self.c.rows_s(decoding + prompts) + deep

    def finish(self, now):
        """The end of the pass: first tokens, and the turns that have ended."""
        self.passes += 1
        for pair, n in self.read:
            pair[0] -= n
            left, turn = pair
            if not left:
                turn.first_token = now + self.c.http_s
                heapq.heappush(self.answers, (self.passes + turn.answer - 1, turn.at, turn.conversation, turn))
                self.depth += turn.prompt
        self.reading = [pair for pair in self.reading if pair[0]]
        ended = []
        while self.answers and self.answers[0][0] <= self.passes:
            turn = heapq.heappop(self.answers)[-1]
            self.depth -= turn.prompt
            self.cache.keep(turn)
            turn.end = now + self.c.http_s
            ended.append(turn)
        return ended


# Routers choose from the loads of all replicas, and from what each of them has of a conversation.


def any_one(chance, turn, loads, found, constants):
    return chance.randrange(len(loads))


def least_busy(chance, turn, loads, found, constants):
    """The less busy one of two: what a router does that cannot ask all of them."""
    a, b = chance.randrange(len(loads)), chance.randrange(len(loads))
    return min(a, b, key=lambda i: loads[i])


def by_prefix(chance, turn, loads, found, constants):
    """The one with the longest beginning, unless another that is less busy would compute it sooner."""
    other = least_busy(chance, turn, loads, found, constants)
    own = max(found, key=found.get, default=other)
    saved = constants.prompt_s(found.get(own, 0) - found.get(other, 0))
    waits = (loads[own] - loads[other]) * constants.rows_s(1)
    return own if waits <= saved else other


ROUTERS = {"random": any_one, "less busy of two": least_busy, "prefix": by_prefix}


class Router:
    """Chooses a replica for each turn, and remembers who has read which conversation."""

    def __init__(self, name, seed, constants):
        self.choose, self.chance, self.constants = ROUTERS[name], random.Random(seed), constants
        self.conversations, self.systems = {}, {}

    def pick(self, turn, loads):
        found = dict.fromkeys(self.systems.get(turn.system, ()), turn.system_tokens)
        if turn.conversation in self.conversations:
            found[self.conversations[turn.conversation]] = turn.known
        chosen = self.choose(self.chance, turn, loads, found, self.constants)
        self.conversations[turn.conversation] = chosen
        holders = self.systems.setdefault(turn.system, [])
        if chosen not in holders:
            holders[:] = [*holders[-3:], chosen]
        return chosen


def simulate(trace, n, router, constants):
    """Plays conversations to `n` replicas. Returns all turns."""
    replicas = [Replica(i, constants) for i in range(n)]
    loads, events, serial, done = [0] * n, [], 0, []

    def push(at, kind, what):
        nonlocal serial
        serial += 1
        heapq.heappush(events, (at, serial, kind, what))

    for turns in trace:
        push(turns[0].at, "turn", (turns, 0))
    following = {}
    while events:
        now, _, kind, what = heapq.heappop(events)
        if kind == "turn":
            turns, index = what
            turn = turns[index]
            turn.at = now
            following[id(turn)] = (turns, index + 1)
            replica = replicas[router.pick(turn, loads)]
            loads[replica.index] += 1
            replica.add(turn)
        else:
            replica = what
            for turn in replica.finish(now):
                loads[replica.index] -= 1
                done.append(turn)
                turns, index = following.pop(id(turn))
                if index < len(turns):
                    push(now + turns[index].at, "turn", (turns, index))
            replica.busy = False
        if not replica.busy and (seconds := replica.start()) is not None:
            push(now + seconds + (constants.http_s if kind == "turn" else 0), "pass", replica)
    return done


def summary(done, n):
    """What users see."""
    first = sorted(turn.first_token - turn.at for turn in done)
    gaps = sorted((t.end - t.first_token) / (t.answer - 1) for t in done)
    span = max(turn.end for turn in done) - min(turn.at for turn in done)
    at = lambda values, share: values[min(len(values) - 1, int(share * len(values)))]
    return {
        "answers": len(done),
        "tokens/s per replica": sum(turn.answer for turn in done) / span / n,
        "cached": sum(turn.cached for turn in done) / sum(turn.prompt for turn in done),
        "first token p50 s": at(first, 0.5),
        "first token p99 s": at(first, 0.99),
        "gap p50 ms": 1e3 * at(gaps, 0.5),
        "gap p99 ms": 1e3 * at(gaps, 0.99),
    }


def show(rows):
    """Prints summaries as a table."""
    names = [name for name in rows[0][1]]
    print("| |" + "|".join(names) + "|\n|---|" + "---:|" * len(names))
    for name, values in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in values.values())
        print(f"| {name} |" + "|".join(cells) + "|")


# Real servers.


class Real:
    """Some real servers, which answer turns as they come."""

    name = "fleet"  # of the model

    def __init__(self, binary, model, n, threads, kv_mb):
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "clients"))
        from server import Server

        args = ["--model", f"{self.name}={model}", "--threads", str(threads), "--kv-mb", str(kv_mb), "--no-sandbox"]
        self.servers = [Server(binary, args) for _ in range(n)]

    def __enter__(self):
        self.urls = [server.__enter__().url for server in self.servers]
        return self

    def __exit__(self, *error):
        for server in self.servers:
            server.__exit__(*error)

    def ask(self, replica, ids, tokens):
        """The ids of the answer, and when its first token and its end came; and the tokens that were cached."""
        body = {"model": self.name, "prompt": ids, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        # Random answers have no drafts that are accepted: how many would be depends on the texts.
        body |= {"seed": 1, "temperature": 2, "stream_options": {"include_usage": True}}
        request = urllib.request.Request(self.urls[replica] + "/v1/completions", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        first, cached = None, 0
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                first = first or time.monotonic()
                usage = json.loads(line[6:]).get("usage")
                if usage:
                    cached = usage["prompt_tokens_details"]["cached_tokens"]
        return first, time.monotonic(), cached


class OnRay(Real):
    """Replicas on Ray, behind one address."""

    name = "default"

    def __init__(self, model, router, options):
        import ray
        from nanoinfer.ray import application
        from ray import serve

        ray.init(num_cpus=2 * options.replicas, include_dashboard=False, log_to_driver=False, logging_level="error")
        engine = {"threads": options.threads, "kv_mb": options.kv_mb}
        serve.run(application(model, num_replicas=options.replicas, router=router, **engine), route_prefix="/")
        self.urls = ["http://127.0.0.1:8000"] * options.replicas
        self.end = lambda: (serve.shutdown(), ray.shutdown())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.end()


def play(trace, n, router, real):
    """Plays conversations to real servers, as `simulate` does to others."""
    loads, lock, done, start = [0] * n, threading.Lock(), [], time.monotonic()

    def talk(turns):
        # The text is random: what matters is which tokens are the same.
        words = lambda seed, count: [random.Random(seed).randrange(300, 20_000) for _ in range(count)]
        ids = [(turns[0].system * 7919 + i) % 19_000 + 300 for i in range(turns[0].system_tokens)]
        for index, turn in enumerate(turns):
            until = start + turn.at if turn.first else time.monotonic() + turn.at
            time.sleep(max(0, until - time.monotonic()))
            ids += words(turn.conversation * 100 + index, turn.prompt - len(ids))
            with lock:
                chosen = turn.replica = router.pick(turn, loads)
                loads[chosen] += 1
            turn.at = time.monotonic()
            turn.first_token, turn.end, turn.cached = real.ask(chosen, ids, turn.answer)
            # The server's tokens are not known here, so others take their place.
            ids += words(-turn.conversation * 100 - index - 1, turn.answer)
            with lock:
                loads[chosen] -= 1
                done.append(turn)

    threads = [threading.Thread(target=talk, args=(turns,), daemon=True) for turns in trace]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


# Commands.


def measure(options):
    """The constants of one server."""
    with Real(options.binary, options.model, 1, options.threads, options.kv_mb) as real:
        prompt = lambda seed, n: [random.Random(seed).randrange(300, 20_000) for _ in range(n)]
        real.ask(0, prompt(0, 64), 8)
        serial, table = iter(range(1, 10**6)), []

        def streams(n, tokens, length):
            """Seconds for a pass with `n` answers after prompts of `length` tokens: while all of them run."""
            times = [None] * n

            def one(i):
                times[i] = real.ask(0, prompt(next(serial), length), tokens)

            threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            last = max(first for first, _, _ in times)
            return statistics.median((end - last) / (tokens - 1) for _, end, _ in times)

        def read(tokens):
            """Seconds until a prompt of so many tokens is read."""
            return -time.monotonic() + real.ask(0, prompt(next(serial), tokens), 1)[0]

        def prefill(rows):
            """Seconds for a pass over `rows` tokens of a prompt: the difference between prompts of one and of two."""
            return statistics.median(read(2 * rows) for _ in range(9)) - statistics.median(read(rows) for _ in range(9))

        table = [[n, min(streams(n, 96, 8) for _ in range(3))] for n in STREAMS]
        table += [[n, prefill(n)] for n in (128, MAX_ROWS)]

        def pass_and_rest(length):
            """Seconds of a pass of one answer after a prompt of `length` tokens, and what its first token takes more."""
            start = time.monotonic()
            first, end, _ = real.ask(0, prompt(next(serial), length), 33)
            return (end - first) / 32, first - start - (end - first) / 32

        # In turns, as the speed of a machine changes. A prompt of one token takes a pass, like a token of an answer.
        near, far = zip(*((pass_and_rest(1), pass_and_rest(DEEP)) for _ in range(15)))
        http = statistics.median(rest for _, rest in near)
        depth = statistics.median((b - a) / DEEP for (a, _), (b, _) in zip(near, far))
        passes = DEEP // MAX_ROWS
        long = statistics.median(read(passes * MAX_ROWS) - passes * read(MAX_ROWS) for _ in range(9))
        prompt_depth = long / ((passes * MAX_ROWS) ** 2 / 2)
        blocks = next(v for (name, _), v in real.servers[0].figures().items() if name == "nanoinfer_blocks")
    # A pass with more rows does not take less time.
    table = [[n, max(s for m, s in table if m <= n)] for n, _ in table]
    constants = Constants(table, max(0, depth), max(0, prompt_depth), max(0, http), int(blocks) * BLOCK)
    options.out.write_text(json.dumps(asdict(constants), indent=1) + "\n")
    print(options.out.read_text())


def check(options):
    """Real and simulated servers, with the same conversations and routers."""
    constants, rows = Constants(**json.loads(options.constants.read_text())), []
    n = options.replicas
    trace = lambda: conversations(options.rate / 60 * n, options.seconds, 1, options.scale, returned=False)
    for name in ROUTERS if n > 1 else ["random"]:
        rows.append((f"{n}, {name}, simulated", summary(simulate(trace(), n, Router(name, 1, constants), constants), n)))
        with Real(options.binary, options.model, n, options.threads, options.kv_mb) as real:
            rows.append((f"{n}, {name}, real", summary(play(trace(), n, Router(name, 1, constants), real), n)))
    show(rows)


def on_ray(options):
    """Replicas on Ray, with the same conversations and different routers."""
    from nanoinfer.ray import PrefixRouter

    n, rows = options.replicas, []
    for name, router in ((f"{n}, Ray's own router", None), (f"{n}, PrefixRouter", PrefixRouter)):
        trace = conversations(options.rate / 60 * n, 86_400, 1, options.scale, returned=False)[: options.conversations]
        with OnRay(options.model, router, options) as real:
            rows.append((name, summary(play(trace, n, Router("random", 1, None), real), n)))
    show(rows)


def predict(options):
    """More replicas."""
    constants, rows = Constants(**json.loads(options.constants.read_text())), []
    for n in map(int, options.replicas.split(",")):
        for name in ROUTERS if n > 1 else ["random"]:
            trace = conversations(options.rate / 60 * n, SECONDS, 1)
            found = summary(simulate(trace, n, Router(name, 1, constants), constants), n)
            rows.append((f"{n}, {name}", found))
            print(f"{n} replicas, {name}: {found['answers']} answers", file=sys.stderr)
    show(rows)
    if options.svg:
        draw(rows, options.svg)


COLORS = {"random": "#b0413e", "less busy of two": "#d49b1f", "prefix": "#2a6f97"}


def round_up(value):
    """To a number with few digits."""
    step = 10 ** math.floor(math.log10(value)) / 5
    return math.ceil(value / step) * step


def draw(rows, path):
    """The share of prompts that is cached, and the time to the first token, by replicas and router."""
    counts = sorted({int(name.split(", ")[0]) for name, _ in rows})
    panels = [("cached", "prompt tokens from the cache", "%", 100), ("first token p50 s", "first token, median", "ms", 1e3)]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 306" font-family="sans-serif" font-size="12">']
    out.append('<rect width="720" height="306" fill="#fff"/>')
    for p, (key, title, unit, scale) in enumerate(panels):
        left, top, width, height = 60 + 350 * p, 40, 270, 190
        most = round_up(scale * max(values[key] for _, values in rows))
        x = lambda n: left + width * (counts.index(n) / max(1, len(counts) - 1))
        y = lambda v: top + height * (1 - v * scale / most)
        out.append(f'<text x="{left}" y="24" font-weight="bold">{title} ({unit})</text>')
        for part in (0, 0.5, 1):
            at = top + height * (1 - part)
            out.append(f'<path d="M{left} {at:.0f}h{width}" stroke="#ddd"/>')
            out.append(f'<text x="{left - 8}" y="{at + 4:.0f}" text-anchor="end">{most * part:.0f}</text>')
        for n in counts:
            out.append(f'<text x="{x(n):.0f}" y="{top + height + 18}" text-anchor="middle">{n}</text>')
        out.append(f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">replicas</text>')
        for name, color in COLORS.items():
            points = [(x(n), y(v[key])) for label, v in rows for n in counts if label == f"{n}, {name}"]
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
            out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in points]
    for i, (name, color) in enumerate(COLORS.items()):
        out.append(f'<rect x="{180 + 160 * i}" y="282" width="12" height="12" fill="{color}"/>')
        out.append(f'<text x="{198 + 160 * i}" y="293">{name}</text>')
    out.append("</svg>")
    Path(path).write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("measure", measure), ("check", check), ("ray", on_ray)):
        command = commands.add_parser(name, help=run.__doc__)
        if run is not on_ray:
            command.add_argument("binary")
        command.add_argument("model")
        if run is not on_ray:
            command.add_argument("out" if run is measure else "constants", type=Path)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--kv-mb", type=int, default=512)
        if run is not measure:
            command.add_argument("--replicas", type=int, default=1 if run is check else 2)
            command.add_argument("--rate", type=float, default=10)
            command.add_argument("--scale", type=float, default=0.25)
        command.set_defaults(run=run)
    command.add_argument("--conversations", type=int, default=50)
    commands.choices["check"].add_argument("--seconds", type=float, default=60)
    command = commands.add_parser("predict", help=predict.__doc__)
    command.add_argument("constants", type=Path)
    command.add_argument("--replicas", default="1,2,10,100,1000")
    command.add_argument("--rate", type=float, default=10)
    command.add_argument("--svg", type=Path)
    command.set_defaults(run=predict)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
