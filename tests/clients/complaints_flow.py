"""Complaints about who gets how much of the machine, and when: stalls, disconnects, silence, starvation."""

import random
import threading
import time

from harness import MODEL, URL, case
from load import (CHAT, COMPLETIONS, FULL, MESSAGES, SERVED, Talk, asked, at_once, completing, count, figure, good, is_free, own,
                  own_tiny, percentile, say, talk, until)  # fmt: skip
from server import call, figures

# Rows of the largest pass.
PASS = 256


@case
def c1_a_prompt_does_not_stall_a_stream():
    size = count(1024, 4096)
    alone = time.monotonic()
    good(COMPLETIONS, completing(size, 1))
    alone = time.monotonic() - alone
    # With log-probabilities, there is an event for every token, even if its text is only part of a character.
    stream = Talk(URL, COMPLETIONS, completing(20, 2, 6000, stream=True, logprobs=0))
    fiftieth, over, other = threading.Event(), threading.Event(), {}

    def read():
        for i, _ in enumerate(stream.open().events()):
            if i == 50:
                fiftieth.set()
            if over.is_set():
                return stream.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert fiftieth.wait(120)
    other["start"] = time.monotonic()
    good(COMPLETIONS, completing(size, 3))
    other["end"] = time.monotonic()
    time.sleep(0.1)
    over.set()
    reader.join()
    times = [at for at, _ in stream.tokens]
    within = [t for t in times if other["start"] <= t <= other["end"]]
    gaps = [b - a for a, b in zip(times, times[1:]) if b >= other["start"] and a <= other["end"]]
    taken = other["end"] - other["start"]
    worst, p99, p50 = max(gaps), percentile(gaps, 0.99), percentile(gaps, 0.5)
    say(f"{size} tokens behind a stream: its gaps {p50:.3f} s p50, {p99:.3f} p99, {worst:.3f} max, {len(gaps)} of them")
    say(f"their prefill took {taken:.2f} s, {alone:.2f} s alone: {alone / taken:.0%} of its speed")
    # Each of the passes that the prompt needs at least brings the stream a token.
    assert len(within) >= size // PASS - 2, (len(within), size)
    if FULL:
        assert p99 <= 0.2 and worst <= 0.3 and alone / taken >= 0.8


@case
def c2_the_work_of_a_client_ends_with_it():
    until(lambda: is_free(URL))
    times = {}
    for number in range(count(1, 20)):
        for streams in (False, True):
            for phase, body in [
                ("prefill", completing(count(1500, 4000), 100 + number * 2 + streams, 500)),
                ("decode", completing(8, 5, 4000)),
            ]:
                one = Talk(URL, COMPLETIONS, body | {"stream": streams}).send()
                until(lambda: figure(URL, "running") > 0)
                if phase == "decode":
                    time.sleep(random.random() * 0.2)
                one.close()
                times.setdefault((phase, streams), []).append(until(lambda: is_free(URL)))
    for (phase, streams), found in times.items():
        kind = "stream" if streams else "whole"
        say(f"{phase}, {kind}: free after {percentile(found, 0.5) * 1e3:.0f} ms p50, {max(found) * 1e3:.0f} max")
    assert not FULL or max(max(found) for found in times.values()) <= 0.25


@case
def c2_a_client_that_leaves_the_queue_is_never_served():
    with own("--sequences", "1") as server:
        holder = Talk(server.url, COMPLETIONS, completing(8, 6, 4000, stream=True)).open()
        for streams in (False, True):
            waits = [Talk(server.url, COMPLETIONS, completing(600, 7 + i, 5, stream=streams)).send() for i in range(4)]
            until(lambda: figure(server.url, "waiting") == 4)
            for one in waits:
                one.close()
            taken = until(lambda: figure(server.url, "waiting") == 0)
            say(f"4 that waited left the queue after {taken * 1e3:.0f} ms")
            assert not FULL or taken <= 0.25
        holder.close()
        until(lambda: is_free(server.url))
        assert figure(server.url, "prompt_tokens_computed_total") <= 8
        assert figure(server.url, "cancelled_total") == 9


@case
def c3_disconnects_change_no_other_answer():
    bodies = [asked(f"Tell me story {i}.", temperature=0.9, seed=i, max_tokens=60, ignore_eos=True) for i in range(8)]
    alone = [said(good(CHAT, body)) for body in bodies]
    end, rounds = threading.Event(), [0] * 8

    def neighbour(i):
        while not end.is_set():
            _, events = talk(URL, CHAT, bodies[i])
            found = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])
            assert found == alone[i], (i, found, alone[i])
            rounds[i] += 1

    def ninth(_):
        chance = random.Random(9)
        try:
            for i in range(count(40, 1000)):
                body = completing(chance.randrange(1, 900), chance.random(), 300, stream=i % 2 == 0)
                one = Talk(URL, COMPLETIONS, body).send()
                time.sleep(chance.random() ** 3 * 0.4)
                one.close()
        finally:
            end.set()

    at_once(lambda i: ninth(i) if i == 8 else neighbour(i), range(9))
    until(lambda: is_free(URL))
    say(f"{count(40, 1000)} disconnects; {sum(rounds)} answers of 8 neighbours are as they are alone")
    assert all(rounds)


def said(answer):
    return answer["choices"][0]["message"]["content"]


@case
def c5_nobody_waits_in_silence():
    size = count(1000, 4096)
    others = [Talk(URL, COMPLETIONS, completing(size, 20 + i, 30, stream=True)) for i in range(3)]
    late = Talk(URL, COMPLETIONS, completing(size, 24, 30, stream=True))

    def run(one):
        if one is late:
            until(lambda: figure(URL, "running") == 3)
        return list(one.open().events())

    at_once(run, [*others, late])
    say(f"first line of the fourth after {late.times[0]:.2f} s, longest silence {max(t.silence() for t in [*others, late]):.2f} s")
    say(f"its comments: {late.comments[:2]} … {late.comments[-1:]}")
    assert all(one.done and len(one.comments) >= size // PASS - 2 for one in [*others, late])
    if FULL:
        assert late.times[0] <= 1.2 and max(t.silence() for t in [*others, late]) <= 5


@case
def c5_a_long_call_comes_bit_by_bit():
    text = {"type": "string", "pattern": "^[a-z ]{300}$"}
    parameters = {"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "write", "parameters": parameters}}]
    body = asked("Write.", tools=tools, tool_choice="required", max_tokens=600, parallel_tool_calls=False)
    with own_tiny() as server:
        one, events = talk(server.url, CHAT, body | {"chat_template_kwargs": {"enable_thinking": False}})
        deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
        parts = [c["function"]["arguments"] for d in deltas for c in d.get("tool_calls", [])]
        say(f"a call of {len(''.join(parts))} bytes in {len(parts)} parts; longest silence {one.silence():.2f} s")
        assert len(parts) > 250 and max(map(len, parts)) < 50, parts
        assert not FULL or one.silence() <= 5


@case
def c19_one_request_is_not_behind_two_hundred():
    keys = ["sk-many-0123456789abcdef", "sk-one-0123456789abcdef"]
    many, few = ({"Authorization": f"Bearer {key}"} for key in keys)
    number, size, finished, end = count(40, 200), count(300, 512), [], threading.Event()
    with own("--sequences", "8", keys=[f"many {keys[0]}", f"one {keys[1]}"]) as server:
        one = Talk(server.url, COMPLETIONS, completing(size, 30, 4, stream=True), few).open()
        next(one.events())
        alone = time.monotonic() - one.sent
        list(one.events())

        def flood(i):
            body = completing(size, 1000 + i, 40)
            while not end.is_set():
                status, headers, answer = call(server.url + COMPLETIONS, body, many)
                if status == 200:
                    finished.append(time.monotonic())
                    return
                assert status == 429 and int(headers["Retry-After"]) >= 1, answer
                end.wait(random.random())

        def single(_):
            until(lambda: figure(server.url, "running", keys[1]) >= 8)
            time.sleep(0.5)
            sent = time.monotonic()
            one = Talk(server.url, COMPLETIONS, completing(size, 31, 4, stream=True), few).open()
            next(one.events())
            first_token = time.monotonic()
            list(one.events())
            passed = sum(sent < t < first_token for t in finished)
            say(f"{number} requests of a key; another's first token after {first_token - sent:.2f} s ({alone:.2f} s alone)")
            say(f"{passed} of the many ended before it")
            end.set()
            return passed, first_token - sent

        passed, waited = at_once(lambda i: single(i) if i == number else flood(i), range(number + 1))[number]
    # It takes the place of a running one instead of the end of the queue.
    assert passed <= 16, passed
    assert not FULL or waited <= 2 * 0.15 + 2 * alone  # two passes, and twice its own prompt


@case
def c20_two_models_take_turns_in_the_room_of_one():
    size, both = count(20, 60), ["--model", f"other={SERVED}", "--kv-mb", "64"]
    with own(*both) as server:
        texts = {name: said(good(CHAT, asked("Tell me about rain.", model=name, max_tokens=size), server.url)) for name in (MODEL, "other")}
        loaded = call(server.url + "/api/ps")[2]["models"]
        room = max(item["size"] for item in loaded)
    assert len(loaded) == 2 and texts[MODEL] == texts["other"], texts
    with own(*both, "--models-mb", str(room * 3 // 2 >> 20)) as server:

        def user(name):
            for _ in range(4):
                body = asked("Tell me about rain.", model=name, max_tokens=size)
                start = time.monotonic()
                assert said(good(CHAT, body, server.url)) == texts[name]  # nothing is cut off
                waits.append(time.monotonic() - start)
                assert len(call(server.url + "/api/ps")[2]["models"]) <= 1

        waits = []
        at_once(user, [MODEL, "other"] * 2)
        say(f"16 answers of two models, of which one has room: {min(waits):.2f} to {max(waits):.2f} s, {figure(server.url, 'loads_total'):.0f} loads")
        assert figure(server.url, "loads_total") > 2


@case
def c24_only_this_machine_is_answered():
    try:
        with own("--host", "0.0.0.0"):
            raise AssertionError("the server is open to everybody")
    except SystemExit as error:
        assert "--keys" in str(error), error
    for headers in [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}]:
        for path, body in [("/v1/models", None), (CHAT, asked("Hi!")), (MESSAGES, asked("Hi!")), ("/", None)]:
            status, found, _ = call(URL + path, body, headers)
            assert status == 403 and "Access-Control-Allow-Origin" not in found, (headers, path, status)


@case
def c25_more_users_get_more_together():
    speeds, size, length = {}, count(64, 512), count(24, 128)
    for users in count((1, 4, 16), (1, 4, 16, 64)):
        before, begun = passes(), threading.Barrier(users + 1)
        ended, found = threading.Event(), [[] for _ in range(users)]

        def user(i):
            """Reads until every user has `length` tokens after the last one's first."""
            one = Talk(URL, COMPLETIONS, completing(size, users * 1000 + i, count(600, 1500), stream=True, logprobs=0)).open()
            for _ in one.events():
                found[i] = one.tokens
                if len(one.tokens) == 1:
                    threading.Thread(target=begun.wait, daemon=True).start()
                if ended.is_set():
                    return one.close()
            raise AssertionError(f"an answer ended after {one.tokens[-1][1]} tokens, before all had begun")

        def watch(_):
            begun.wait(600)
            had = [tokens[-1][1] for tokens in found]
            start = time.monotonic()
            until(lambda: all(tokens[-1][1] >= n + length for tokens, n in zip(found, had)), 600)
            now = sum(tokens[-1][1] for tokens in found) - sum(had)
            speeds[users] = now / (time.monotonic() - start)
            ended.set()
            return now

        generated = at_once(lambda i: watch(i) if i == users else user(i), range(users + 1))[users]
        until(lambda: is_free(URL))
        say(f"{users} users: {speeds[users]:.1f} tokens/s together, {generated} tokens while all had begun")
        # Passes are shared: without that, there would be one for each token and prompt.
        assert users == 1 or passes() - before < sum(tokens[-1][1] for tokens in found)
    assert not FULL or list(speeds.values()) == sorted(speeds.values()), speeds


def passes():
    (found,) = [value for (name, _), value in figures(URL).items() if name == "nanoinfer_pass_seconds_count"]
    return found
