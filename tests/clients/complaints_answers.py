"""Complaints about answers: schemas that are ignored, streams that differ, errors that are none, chance."""

import json
import signal
import time
from pathlib import Path

import tiny
from harness import MODEL, URL, case
from load import (CHAT, COMPLETIONS, FULL, MESSAGES, OLLAMA, RESPONSES, SERVED, Talk, asked, at_once, completing, count, figure,
                  good, own, own_tiny, percentile, say, talk, until)  # fmt: skip
from server import call

TEMPLATES = Path(__file__).parents[2] / "crates/text/tests/data/tools"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", "bird"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


def formatted(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def assert_valid(text):
    """Checks that a text is an instance of PERSON."""
    found = json.loads(text)
    assert list(found) == PERSON["required"], text
    assert isinstance(found["name"], str) and len(found["name"]) <= 20, text
    assert isinstance(found["age"], int) and 0 <= found["age"] <= 120, text
    assert found["kind"] in PERSON["properties"]["kind"]["enum"], text
    assert len(found["tags"]) <= 4 and all(isinstance(tag, bool) for tag in found["tags"]), text


@case
def c11_schemas_that_cannot_be_enforced_are_refused():
    computed = figure(URL, "prompt_tokens_computed_total")
    good(CHAT, asked("Hi!", max_tokens=1, response_format=formatted({"type": "boolean"})))  # prepares the vocabulary
    before, times = figure(URL, "prompt_tokens_computed_total"), []
    assert before > computed
    for schema, word in [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "a(?=b)"}}}, "pattern"),
        ({"$ref": "#"}, "$ref"),
        ({"type": "string", "colour": 1}, "colour"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"type": "hiccup"}, "type"),
        ({"$ref": "http://example.com/schema.json"}, "$ref"),
    ]:
        for streams in (False, True):
            for _ in range(count(1, 20)):
                start = time.monotonic()
                status, _, answer = call(URL + CHAT, asked("Hi!", response_format=formatted(schema), stream=streams))
                times.append(time.monotonic() - start)
                assert status == 400 and word in answer["error"]["message"], (schema, answer)
                assert answer["error"]["param"] == "response_format", answer
    say(f"{len(times)} refusals: {percentile(times, 0.5) * 1e3:.1f} ms p50, {max(times) * 1e3:.1f} max; {answer['error']['message']}")
    assert figure(URL, "prompt_tokens_computed_total") == before
    assert not FULL or max(times) < 0.05


@case
def c12_answers_with_a_schema_are_valid_and_as_fast():
    number, tokens, seconds = count(8, 100), [0, 0], [0, 0]
    for first in range(0, number, 8):  # in turns, so that both have the same machine
        for form in (None, formatted(PERSON)):
            fields = {"response_format": form, "max_tokens": 200} if form else {"ignore_eos": True, "max_tokens": 60}

            def one(i):
                return good(CHAT, asked(f"Describe pet {i} as JSON.", temperature=1.0, seed=i, **fields))

            start = time.monotonic()
            answers = at_once(one, range(first, min(first + 8, number)))
            seconds[bool(form)] += time.monotonic() - start
            tokens[bool(form)] += sum(answer["usage"]["completion_tokens"] for answer in answers)
            for choice in [answer["choices"][0] for answer in answers if form]:
                assert choice["finish_reason"] == "stop", choice
                assert_valid(choice["message"]["content"])
    plain, with_schema = tokens[0] / seconds[0], tokens[1] / seconds[1]
    say(f"{number} answers, 8 at once: {plain:.1f} tokens/s, with a schema {with_schema:.1f}: {with_schema / plain:.0%}")
    assert not FULL or with_schema >= 0.97 * plain


@case
def c13_many_tools():
    def tool(i):
        schema = {"type": "object", "properties": {f"value_{i}": {"type": "string", "description": "x" * 1200}, "n": {"type": "integer"}}}
        function = {"name": f"tool_{i}", "description": "y" * 150, "parameters": schema}
        return {"type": "function", "function": function}

    tools = [tool(i) for i in range(200)]
    with own_tiny() as server:
        good(CHAT, asked("Hi!", max_tokens=1, tools=[tool(999)], tool_choice="required"), server.url)
        for choice in ("auto", "required"):
            body, costs = asked("Hi!", max_tokens=1, tool_choice=choice), []
            for known in (False, True):
                before, start = server.cpu(), time.monotonic()
                for i in range(4):
                    body["tools"] = tools[:i] + [tool(500 + i)] + tools[i + 1 :]
                    good(CHAT, body, server.url)
                costs.append((server.cpu() - before) / 4)
                each = (time.monotonic() - start) / 4
                size = len(json.dumps(body["tools"])) / 1000
                state = "compiled before" if known else "new"
                say(f"200 tools, {size:.0f} kB, {choice}, {state}: {each * 1e3:.0f} ms, {costs[-1] * 1e3:.0f} ms of CPU")
            assert not FULL or costs[0] - costs[1] <= 0.1


def tools_for(path):
    """Two tools in the form of an API."""
    shape = {"zone": {"enum": ["x", "yz"]}, "n": {"type": "boolean"}, "text": {"type": "string", "maxLength": 12}}
    parameters = {"type": "object", "properties": shape, "required": ["zone", "text"], "additionalProperties": False}
    functions = [{"name": name, "description": "Tells."} for name in ("now", "then")]
    if path == MESSAGES:
        return [f | {"input_schema": parameters} for f in functions]
    functions = [f | {"parameters": parameters} for f in functions]
    return [{"type": "function"} | f if path == RESPONSES else {"type": "function", "function": f} for f in functions]


def in_form(path, seed, choice):
    """A request with tools in the form of an API."""
    turns, options = [{"role": "user", "content": "Now?"}], {"seed": seed, "temperature": 1.2}
    size, body = 160, {"model": MODEL, "tools": tools_for(path)}
    if path == MESSAGES:
        choice = {"type": "any" if choice == "required" else choice}
    if path == OLLAMA:
        return body | {"messages": turns, "options": options | {"num_predict": size}}
    body |= options | {"tool_choice": choice}
    if path == RESPONSES:
        return body | {"input": turns, "max_output_tokens": size}
    return body | {"messages": turns, "max_tokens": size}


def parts_of(path, answer):
    """What a whole answer consists of: (kind, text, name) of each part, and how it ended."""
    if path in (CHAT, OLLAMA):
        choice = answer["choices"][0] if path == CHAT else answer
        message = choice["message"]
        found = [("reasoning", message.get("reasoning_content") or message.get("thinking") or "", "")]
        found.append(("text", message.get("content") or "", ""))
        calls = [c["function"] for c in message.get("tool_calls") or []]
        found += [("call", canonical(f["arguments"]), f["name"]) for f in calls]
        end = choice["finish_reason"] if path == CHAT else choice["done_reason"]
    elif path == MESSAGES:
        kinds = {"thinking": ("reasoning", "thinking"), "text": ("text", "text"), "tool_use": ("call", "input")}
        blocks = [(kinds[b["type"]], b) for b in answer["content"]]
        found = [(kind, canonical(b[key]), b.get("name", "")) for (kind, key), b in blocks]
        end = answer["stop_reason"]
    else:
        found, end = [], answer["status"]
        for item in answer["output"]:
            if item["type"] == "function_call":
                found.append(("call", canonical(item["arguments"]), item["name"]))
            else:
                texts = item.get("content") or item.get("summary") or []
                found.append(("text" if item["type"] == "message" else "reasoning", "".join(t["text"] for t in texts), ""))
    return [part for part in found if part[1]], end


def canonical(value):
    """Arguments as text, whether an API has them as text or as a value."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, sort_keys=True)


def folded(path, events):
    """The same for the events of a stream."""
    if path == CHAT:
        message = {"reasoning_content": "", "content": "", "tool_calls": []}
        for delta in [e["choices"][0]["delta"] for e in events if e["choices"]]:
            for key in ("reasoning_content", "content"):
                message[key] += delta.get(key) or ""
            for part in delta.get("tool_calls", []):
                if "id" in part:
                    message["tool_calls"].append(part)
                else:
                    message["tool_calls"][part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        return parts_of(path, {"choices": [{"message": message, "finish_reason": events[-1]["choices"][0]["finish_reason"]}]})
    if path == OLLAMA:
        message = {"thinking": "", "content": "", "tool_calls": []}
        for part in [e["message"] for e in events]:
            for key in message:
                message[key] += part.get(key) or type(message[key])()
        return parts_of(path, {"message": message, "done_reason": events[-1]["done_reason"]})
    if path == RESPONSES:
        return parts_of(path, events[-1]["response"])
    blocks, end = [], None
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"] | ({"input": ""} if event["content_block"]["type"] == "tool_use" else {}))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            keys = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking"), "input_json_delta": ("input", "partial_json")}
            if delta["type"] in keys:
                to, key = keys[delta["type"]]
                blocks[event["index"]][to] += delta[key]
        elif event["type"] == "message_delta":
            end = event["delta"]["stop_reason"]
    if end == "max_tokens" and blocks and blocks[-1]["type"] == "tool_use":
        try:
            json.loads(blocks[-1]["input"])
        except ValueError:
            blocks[-1]["input"] = "{}"  # a call that was cut off has no other value
    return parts_of(path, {"content": blocks, "stop_reason": end})


def markers_of(template):
    """What surrounds reasoning and calls in a template, of which most vocabularies make tokens."""
    known = ["<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>", "<tool_call>", "</tool_call>",
             "<|python_tag|>", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|tool_call|>", "<|/tool_call|>", "<|tool_call>",
             "<tool_call|>", '<|"|>', "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>",
             "<|return|>"]  # fmt: skip
    return [marker for marker in known if marker in template]


@case
def c14_streams_add_up_to_whole_answers():
    for path in sorted(TEMPLATES.glob("*.jinja")):
        template = path.read_text()
        options = {"template": template, "markers": markers_of(template), "eos": "<|im_end|>", "ctx": 16384}
        with own_tiny(make=tiny.make, **options) as server:
            family(path.stem, server)


def family(name, server):
    """Compares streams with whole answers, with each API, for calls that are required and free."""
    kinds, refused = {}, False
    status, _, whole = call(server.url + CHAT, in_form(CHAT, 1, "auto"))
    if status == 400 and whole["error"]["code"] == "unsupported_parameter":
        return say(f"{name}: {whole['error']['message']}")
    for path in (CHAT, MESSAGES, RESPONSES, OLLAMA):
        for choice in ("required", "auto"):
            for seed in range(count(2, 10)):
                body = in_form(path, seed, choice)
                status, _, whole = call(server.url + path, body | {"stream": False})
                if status == 400 and choice == "required":
                    assert "required" in json.dumps(whole), whole
                    refused = True
                    break
                assert status == 200, (name, path, whole)
                parts = parts_of(path, whole)
                found = streamed(server, path, body)
                assert found == parts, (name, path, choice, seed, found, parts)
                for kind, text, _ in parts[0]:
                    kinds[kind] = kinds.get(kind, 0) + 1
                    if kind == "call" and parts[1] not in ("length", "max_tokens", "incomplete"):
                        assert isinstance(json.loads(text), dict), text
    say(f"{name}: equal; {kinds}{'; calls cannot be required' if refused else ''}")
    assert refused or kinds.get("call")


def streamed(server, path, body):
    if path == OLLAMA:
        status, _, text = call(server.url + path, body | {"stream": True})
        lines = text.splitlines() if isinstance(text, str) else [json.dumps(text)]
        return folded(path, [json.loads(line) for line in lines])
    one = Talk(server.url, path, body | {"stream": True}).open()
    assert one.status == 200
    return folded(path, list(one.events()))


@case
def c14_typed_markers_stay_text():
    with own_tiny() as server:
        tokens = [good(CHAT, asked(text, max_tokens=1), server.url)["usage"]["prompt_tokens"] for text in ("<tool_call>", "-tool_call-")]
        assert tokens[0] == tokens[1], tokens


@case
def c15_a_schema_holds_after_the_reasoning():
    think, end = str(tiny.FIRST_MARKER), str(tiny.FIRST_MARKER + 1)
    with own_tiny() as server:
        thought = 0
        for seed in range(count(5, 100)):
            # The model is made to think, and to stop thinking at some time.
            body = asked("Who?", response_format=formatted(PERSON), max_tokens=900, seed=seed, temperature=1.0)
            body["logit_bias"] = {think: 100 if seed % 2 else 0, end: 4}
            choice = good(CHAT, body, server.url)["choices"][0]
            thought += bool(choice["message"].get("reasoning_content"))
            if choice["finish_reason"] == "stop":
                assert_valid(choice["message"]["content"])
            else:
                assert choice["finish_reason"] == "length"
            streams = streamed(server, CHAT, body)
            assert streams == parts_of(CHAT, {"choices": [choice]}), seed
        say(f"{count(5, 100)} answers are valid, {thought} of them after reasoning")
        assert thought


@case
def c16_too_long_a_prompt_is_an_error_with_both_numbers():
    with own("--ctx", "512") as server:
        good(COMPLETIONS, completing(512, 16, 4), server.url)
        for size in (513, 4000):
            for streams in (False, True):
                status, _, answer = call(server.url + COMPLETIONS, completing(size, 16, 4, stream=streams))
                error = answer["error"]
                assert status == 400 and error["code"] == "context_length_exceeded" and error["n_ctx"] == 512
                assert error["n_prompt_tokens"] == size and f"{size}" in error["message"]
                assert "maximum context length is 512 tokens" in error["message"]
            say(f"a prompt of {size} tokens: {error['message']}")
        for most in (32_000, 128_000):
            answer = good(COMPLETIONS, completing(400, 17, most), server.url)
            assert answer["usage"]["total_tokens"] in (512, 513) and answer["choices"][0]["finish_reason"] == "length"
        assert call(server.url + "/health")[0] == 200


@case
def c17_every_stream_has_an_end():
    include = {"stream_options": {"include_usage": True}}
    one, events = talk(URL, CHAT, asked("Hi!", max_tokens=5, **include))
    assert one.done and events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] <= 5
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1] in ("stop", "length")
    one, events = talk(URL, COMPLETIONS, completing(5, 18, 5, **include))
    assert one.done and events[-1]["choices"] == [] and events[-2]["choices"][0]["finish_reason"] == "length"
    _, events = talk(URL, MESSAGES, asked("Hi!", max_tokens=5))
    assert events[-1]["type"] == "message_stop" and events[-2]["delta"]["stop_reason"]
    _, events = talk(URL, RESPONSES, {"model": MODEL, "input": "Hi!", "max_output_tokens": 5})
    assert events[-1]["type"] in ("response.completed", "response.incomplete")


@case
def c17_a_server_that_ends_says_so():
    with own("--drain", "1") as server:
        asks = [(CHAT, asked("A long story.", max_tokens=1500, ignore_eos=True, seed=3)), (COMPLETIONS, completing(9, 19, 1500))]
        talks = [Talk(server.url, path, body | {"stream": True}).open() for path, body in asks]
        readers = [one.events() for one in talks]
        before = [[next(reader) for _ in range(5)] for reader in readers]
        server.process.send_signal(signal.SIGTERM)
        rests = at_once(list, readers)
        server.process.wait(20)
        assert server.process.returncode == 0
    for (path, body), one, first, rest in zip(asks, talks, before, rests):
        had = first + rest[:-1]
        say(f"after SIGTERM: {len(rest) - 1} more events, the last with id {one.last_id}, then {json.dumps(rest[-1])[:120]}")
        assert "error" in rest[-1] and not one.done, rest[-1]
        # Another server goes on after that id.
        whole = Talk(URL, path, body | {"stream": True}).open()
        texts = [text_of(event) for event, _ in zip(whole.events(), range(len(had) + 10))]
        whole.close()
        assert [text_of(event) for event in had] == texts[: len(had)]
        more = Talk(URL, path, body | {"stream": True}, {"Last-Event-ID": one.last_id}).open()
        assert [text_of(event) for event, _ in zip(more.events(), range(10))] == texts[len(had) :]
        more.close()


def text_of(event):
    choice = event["choices"][0]
    return choice["text"] if "text" in choice else choice["delta"].get("content")


@case
def c18_chance_is_only_in_the_seed():
    number = count(12, 100)

    def answer(url, i):
        words = " ".join(f"{w}{i % 7}" for w in ("fox", "dog", "bird", "cat") * (2 + i % 9))
        fields = {"model": MODEL, "temperature": (0.0, 1.2)[i % 2], "seed": i, "max_tokens": 24, "ignore_eos": i % 3 == 0}
        if i % 5 < 2:  # a repetition, of which drafts are made
            body = fields | {"prompt": f"{i}: " + "one two three four five " * 12, "logprobs": 3, "max_tokens": 40}
            return json.dumps(good(COMPLETIONS, body, url)["choices"])
        text = f"Request {i}. Repeat this: {words}. And again: {words}"
        return json.dumps(good(CHAT, asked(text, **fields, logprobs=True, top_logprobs=3), url)["choices"])

    with own() as server:
        alone = [answer(server.url, i) for i in range(number)]
        say(f"{number} alone: {figure(server.url, 'tokens_drafted_total'):.0f} tokens drafted, {figure(server.url, 'drafts_accepted_total'):.0f} accepted")
        again = [answer(server.url, i) for i in range(number)]
        assert again == alone
        say(f"cached ({figure(server.url, 'prompt_tokens_cached_total'):.0f} tokens): equal")
    for what, options in [("among 64", ()), ("among 64, preempted", ("--kv-mb", "16"))]:
        with own(*options) as server:
            for first in range(0, number, 64):
                chosen = range(first, min(first + 64, number))
                # The gaps are filled with others.
                found = at_once(lambda i: answer(server.url, i % number), range(first, first + 64))
                assert found[: len(chosen)] == alone[first : first + 64], what
            preempted = figure(server.url, "preemptions_total")
            say(f"{what}: {number} of {number} equal; {preempted:.0f} preemptions, {figure(server.url, 'blocks'):.0f} blocks")
    with own("--threads", "1") as server:
        some = range(0, number, 5)
        assert [answer(server.url, i) for i in some] == [alone[i] for i in some]
        say(f"one thread: {len(some)} of {len(some)} equal")
