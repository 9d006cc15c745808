"""Complaints about what is kept: work done twice, another user's text, memory that grows."""

import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import tiny
from harness import URL, case
from load import (CHAT, COMPLETIONS, FULL, MESSAGES, SERVED, Talk, asked, at_once, completing, count, figure, good, own,
                  own_tiny, say, talk, tiny_model, until)  # fmt: skip

BLOCK = 64
WORDS = "rain falls on the old stone bridge while seven small boats drift slowly past a quiet town of red roofs".split()


@case
def c4_a_repeated_request_goes_on_where_it_was():
    size = count(1500, 4096)
    for streams in (True, False):
        body, done = completing(size, 40 + streams, 4), 0
        for share in (0.4, 0.8):
            # Another client's timeout, at a part of the prompt. What is cached is not part of the progress.
            one = Talk(URL, COMPLETIONS, body | {"stream": True}).open()
            cached, new = size, 0  # unless the server says that it computes something
            for line in one.lines():
                if line.startswith(": prefill"):
                    new, total = map(int, line.split()[-1].split("/"))
                    cached = size - total
                    if cached + new >= share * size:
                        break
            one.close()
            say(f"{cached} of {size} cached, left at {cached + new}; {done} were done")
            assert cached >= done // BLOCK * BLOCK, (cached, done)
            done = cached + new
        answer = Talk(URL, COMPLETIONS, body | {"stream": streams, "stream_options": {"include_usage": True}}).open()
        events = list(answer.events()) if streams else [json.loads(answer.reply.read())]
        cached = events[-1]["usage"]["prompt_tokens_details"]["cached_tokens"]
        say(f"the third run had {cached} tokens in the cache")
        assert cached >= done // BLOCK * BLOCK, (cached, done)


@case
def c6_the_place_of_a_difference_is_named():
    rules = " ".join(f"Rule {i}: be kind to everybody, at any time." for i in range(60))
    system = [f"x-anthropic-billing-header: cc_version=1; cch={n};\n{rules}" for n in ("a1b2c", "d3e4f")]
    for i, text in enumerate(system):
        usage = good(MESSAGES, asked("Hi!", max_tokens=1) | {"system": text})["usage"]
        say(f"request {i + 1} of a client whose billing line changes: {usage}")
    assert usage["input_tokens"] <= BLOCK and usage["cache_read_input_tokens"] >= 500
    turns = [{"role": "system", "content": "It is 12:00. " + rules}, {"role": "user", "content": "Hi!"}]
    good(CHAT, asked("", messages=turns, max_tokens=1))
    turns[0]["content"] = turns[0]["content"].replace("Rule 30: be kind", "Rule 30: be rude")
    found = good(CHAT, asked("", messages=turns, max_tokens=1))["nanoinfer"]
    say(f"another system prompt: {found}")
    assert found["was"].strip() == "kind" and found["is"].strip() == "rude"
    assert found["cached"] <= found["differs_at"] <= found["cached"] + BLOCK


@case
def c7_side_requests_do_not_cost_a_conversation_its_cache():
    """After each turn, other prompts contain the conversation, as those that ask for a title and tags do."""
    sides = ["Write a title of three words for this conversation:\n\n", "List three tags for this conversation, as JSON:\n\n"]
    waits = {turn: [] for turn in range(1, 9)}
    with own("--chat-template", "chatml") as server:
        for seed in range(count(1, 3)):
            turns, known, computed = [], 0, []
            for turn in waits:
                turns.append({"role": "user", "content": question(server.url, turns, seed * 10 + turn)})
                body = asked("", messages=turns, max_tokens=count(8, 60), ignore_eos=True, stream_options={"include_usage": True})
                one, events = talk(server.url, CHAT, body)
                usage = events[-1]["usage"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                assert cached >= known // BLOCK * BLOCK, (turn, cached, known)
                computed.append(usage["prompt_tokens"] - cached)
                known = usage["total_tokens"] - 1  # the last token of an answer is not part of a pass
                waits[turn].append(one.tokens[0][0] - one.sent)
                deltas = (event["choices"][0]["delta"] for event in events if event["choices"])
                turns.append({"role": "assistant", "content": "".join(delta.get("content") or "" for delta in deltas)})
                history = "\n".join(f"{t['role']}: {t['content']}" for t in turns)
                for side in sides:
                    good(CHAT, asked(side + history, max_tokens=8), server.url)
            say(f"turn 8: {usage['prompt_tokens']} tokens, {cached} cached; computed in each turn: {computed}")
    first = {turn: statistics.median(found) for turn, found in waits.items()}
    say("first token of each turn after " + ", ".join(f"{1e3 * wait:.0f}" for wait in first.values()) + " ms")
    # Attention to a thousand cached tokens takes a small model about as long as a hundred new ones.
    assert not FULL or first[8] <= 2.5 * first[2], first


def question(url, turns, seed):
    """A question with which every turn has the same number of tokens in its last block."""
    words = random.Random(seed).choices(WORDS, k=200)
    for n in range(40, 200):
        text = " ".join(words[:n])
        if good("/tokenize", {"messages": [*turns, {"role": "user", "content": text}]}, url)["count"] % BLOCK == 40:
            return text
    raise AssertionError("no length fits")


@case
def c8_answers_that_come_back_are_not_computed_again():
    zone = {"type": "string", "pattern": "^[a-z]{90}$"}
    parameters = {"type": "object", "properties": {"zone": zone, "n": {"type": "boolean"}}, "required": ["zone", "n"]}
    tools = [{"type": "function", "function": {"name": "now", "parameters": parameters | {"additionalProperties": False}}}]
    with own_tiny() as server:
        turns = [{"role": "user", "content": "What time is it? " * 20}]
        body = asked("", messages=turns, tools=tools, tool_choice="required", max_tokens=500, parallel_tool_calls=False)
        body["logit_bias"] = {str(tiny.FIRST_MARKER): -100}  # no reasoning
        for _ in range(3):
            first = good(CHAT, body, server.url)
            message = first["choices"][0]["message"]
            function = message["tool_calls"][0]["function"]
            # Other clients write JSON with other spaces, and other members than they got.
            function["arguments"] = json.dumps(json.loads(function["arguments"]), separators=(",", ":"))
            kept = {k: message[k] for k in ("role", "content", "tool_calls")}
            turns += [kept, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Noon."}]
            second = good(CHAT, body | {"max_tokens": 1}, server.url)
            had = first["usage"]["total_tokens"]
            new = second["usage"]["prompt_tokens"] - had
            computed = second["nanoinfer"]["computed"]
            say(f"{had} tokens came back with {new} new ones: {computed} computed")
            assert computed <= new + BLOCK, (computed, new)


def marked(i, size):
    """A conversation that contains a marker, and nothing else that others have."""
    chance = random.Random(i)
    text = "".join(chance.choices("abcdefghijklmnop ", k=size))
    fields = {"temperature": 0.0 if i % 2 else 0.9, "seed": i, "max_tokens": 40, "ignore_eos": True}
    return asked(f"My secret word is {marker(i)}. {text} Repeat the secret word.", **fields)


def marker(i):
    return f"zq{i:03}x" + "".join(random.Random(-i).choices("bcdfgh", k=6))


def answered(url, body):
    return good(CHAT, body, url)["choices"][0]["message"]["content"]


@case
def c9_nobody_gets_the_text_of_others():
    with tiny_model() as folder:
        crossing(folder, 600, "1")
    crossing(SERVED, count(300, 1200), "64")


def crossing(model, size, megabytes):
    users = count(16, 64)
    bodies = [marked(i, size) for i in range(users)]
    with own(model=model) as server:
        alone = [answered(server.url, body) for body in bodies]
    with tempfile.TemporaryDirectory() as store:
        # Turns are stored whose context has 512 tokens or that end an answer of a conversation.
        options = ("--kv-mb", megabytes, "--cache-dir", store, "--queue", "500")
        for state in ("new", "kept", "damaged"):
            if state == "damaged":
                damage(store)
            with own(*options, model=model) as server:

                def late(i):
                    time.sleep(random.Random(i).random() * 0.3)
                    return answered(server.url, bodies[i])

                found = at_once(late, range(users))
                preempted, cached = figure(server.url, "preemptions_total"), figure(server.url, "prompt_tokens_cached_total")
                blocks = figure(server.url, "blocks")
                files = len(list(Path(store).rglob("*")))
                until(lambda: len(list(Path(store).rglob("*"))) > 1)
                time.sleep(0.5)
            for i, text in enumerate(found):
                assert text == alone[i], (state, i, text, alone[i])
                assert not any(marker(j) in text for j in range(users) if j != i), (state, i)
            same = sum(marker(i) in text for i, text in enumerate(found))
            say(f"{users} users, {blocks:.0f} blocks, {state} store of {files} files: all as alone, {same} with their own marker; "
                f"{preempted:.0f} preemptions, {cached:.0f} tokens cached")  # fmt: skip


def damage(store):
    """Damages every file in a folder, in several ways."""
    chance = random.Random(1)
    for i, path in enumerate(sorted(p for p in Path(store).rglob("*") if p.is_file())):
        data = bytearray(path.read_bytes())
        if i % 4 == 0:
            data = data[: chance.randrange(len(data) + 1)]
        elif i % 4 == 1:
            for _ in range(20):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif i % 4 == 2:
            data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        else:
            data[chance.randrange(len(data))] ^= 255
        path.chmod(0o600)
        path.write_bytes(data)


@case
def c10_memory_does_not_grow():
    prompts, schemas = count((200, 600), (1000, 10_000)), count((50, 200), (1000, 1000))
    with own_tiny("--kv-mb", "4") as server:
        assert any("MB for the keys and values" in line for line in server.log), server.log
        size = []
        for first, last in [(0, prompts[0]), (prompts[0], prompts[1])]:
            batches = [range(first + i, last, 8) for i in range(8)]
            at_once(lambda numbers: [distinct(server.url, i, schemas) for i in numbers], batches)
            size.append((server.status("RssAnon") + server.status("VmSwap")) / 1024)
            say(f"after {last} prompts and {min(last, schemas[1])} schemas: {size[-1]:.1f} MB")
        assert not FULL or size[1] - size[0] < 8, size


def distinct(url, i, schemas):
    """A request whose prompt is another one each time. The first ones have a schema of their own too."""
    chance = random.Random(i)
    fields = {"max_tokens": 8, "seed": i}
    if i < schemas[1]:
        members = {f"name_{i}": {"type": "boolean"}, "age": {"type": "integer", "minimum": 0, "maximum": i}}
        shape = {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": shape}}
    good(CHAT, asked("".join(chance.choices("abcdefgh ", k=chance.randrange(50, 400))), **fields), url)


