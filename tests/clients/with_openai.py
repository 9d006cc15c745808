"""The OpenAI SDK: chat, completions, responses, models, embeddings; whole, streamed and asynchronous."""

import asyncio
import json
import math

import openai

from harness import BASE, KEY, MODEL, assert_cancelled, case, figure, main, raises, wait_until_idle

client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]
LONG = [{"role": "user", "content": "fox " * 20_000}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def chat(**fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": ASK, "max_tokens": 16, "seed": 5} | fields)


def text(stream):
    """The text of a streamed chat."""
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


@case
def models_are_listed():
    listed = client.models.list().data
    assert [m.id for m in listed] == [MODEL] and listed[0].object == "model" and listed[0].max_model_len > 1000
    assert client.models.retrieve(MODEL).id == MODEL
    assert raises(openai.NotFoundError, client.models.retrieve, "gpt-9").code == "model_not_found"


@case
def a_key_is_required():
    stranger = openai.OpenAI(base_url=BASE, api_key="sk-wrong", max_retries=0)
    error = raises(openai.AuthenticationError, stranger.models.list)
    assert error.code == "invalid_api_key"
    raises(openai.AuthenticationError, stranger.chat.completions.create, model=MODEL, messages=ASK)


@case
def a_whole_answer():
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=16, temperature=0)
    assert raw.headers["x-request-id"] and raw.request_id == raw.headers["x-request-id"]
    answer = raw.parse()
    choice, usage = answer.choices[0], answer.usage
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id and answer.created > 1.7e9
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert usage.completion_tokens == 16 and usage.total_tokens == usage.prompt_tokens + 16
    assert answer.system_fingerprint and isinstance(answer.seed, int)


@case
def a_stream_is_the_whole_answer():
    for fields in [{}, {"temperature": 0}, {"temperature": 1.5, "top_p": 0.8, "presence_penalty": 0.5}]:
        whole = chat(**fields)
        chunks = list(chat(stream=True, stream_options={"include_usage": True}, **fields))
        assert text(chunks) == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert all(c.usage is None for c in chunks[:-1])
        assert {(c.id, c.model, c.system_fingerprint) for c in chunks} == {
            (chunks[0].id, MODEL, whole.system_fingerprint)
        }


@case
def the_stream_helper_folds_to_the_whole_answer():
    fields = {"model": MODEL, "messages": ASK, "max_tokens": 200, "seed": 5, "stop": "."}
    with client.chat.completions.stream(**fields) as stream:
        kinds = {event.type for event in stream}
        folded = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert folded.choices[0].message.content == chat(**fields).choices[0].message.content


@case
def a_seed_gives_the_same_text():
    hot = {"temperature": 1.2}
    texts = [chat(**hot).choices[0].message.content for _ in range(2)]
    assert texts[0] == texts[1] and chat(seed=6, **hot).choices[0].message.content != texts[0]
    chosen = chat(seed=openai.NOT_GIVEN, **hot)
    assert chat(seed=chosen.seed, **hot).choices[0].message.content == chosen.choices[0].message.content


@case
def several_choices_have_following_seeds():
    answer = chat(n=3, temperature=1.2)
    assert [c.index for c in answer.choices] == [0, 1, 2] and answer.usage.completion_tokens <= 48
    for choice in answer.choices:
        alone = chat(seed=5 + choice.index, temperature=1.2)
        assert alone.choices[0].message.content == choice.message.content
    parts = ["", "", ""]
    for chunk in chat(n=3, temperature=1.2, stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert parts == [c.message.content for c in answer.choices]


@case
def a_stop_string_ends_the_answer():
    plain = chat(temperature=0).choices[0].message.content
    stop = plain.split()[3]
    for stops in [stop, [stop, "never appears"]]:
        answer = chat(temperature=0, stop=stops)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content == plain[: plain.index(stop)]
        assert text(chat(temperature=0, stop=stops, stream=True)) == answer.choices[0].message.content


@case
def log_probabilities_belong_to_the_tokens():
    answer = chat(logprobs=True, top_logprobs=5, temperature=0)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content
    for token in content:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 5 and tops == sorted(tops, reverse=True) and sum(map(math.exp, tops)) < 1.001
        assert token.top_logprobs[0].token == token.token and tops[0] == token.logprob
    chunks = chat(logprobs=True, top_logprobs=5, temperature=0, stream=True)
    streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == content


@case
def a_bias_excludes_a_token():
    first = chat(logprobs=True, max_tokens=1, temperature=0).choices[0].logprobs.content[0]
    ids = client.post("/../tokenize", body={"content": first.token}, cast_to=object)["tokens"]
    again = chat(logprobs=True, max_tokens=1, temperature=0, logit_bias={str(ids[0]): -100})
    assert again.choices[0].logprobs.content[0].token != first.token


@case
def errors_name_the_field():
    for fields, param in [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": -7}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias.999999999"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ]:
        error = raises(openai.BadRequestError, chat, **fields)
        assert error.type == "invalid_request_error", fields
        assert param is None or error.param == param, (fields, error.param)
    assert raises(openai.NotFoundError, chat, model="gpt-9").code == "model_not_found"


@case
def a_long_prompt_names_both_numbers():
    size = client.models.retrieve(MODEL).max_model_len
    error = raises(openai.BadRequestError, chat, messages=LONG)
    assert error.code == "context_length_exceeded"
    assert f"maximum context length is {size} tokens" in error.message
    assert error.body["n_ctx"] == size and error.body["n_prompt_tokens"] > 20_000


@case
def a_large_maximum_is_clamped():
    answer = chat(max_tokens=128_000, stop=[" ", "."])
    assert answer.choices[0].finish_reason == "stop"


@case
def a_cancelled_stream_ends_in_the_engine():
    assert_cancelled(chat(max_tokens=4000, stream=True, extra_body={"ignore_eos": True}), 3)
    before = figure("nanoinfer_cancelled_total")
    impatient = client.with_options(timeout=0.5)
    fields = {"model": MODEL, "messages": ASK, "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    raises(openai.APITimeoutError, impatient.chat.completions.create, **fields)
    wait_until_idle()
    assert figure("nanoinfer_cancelled_total") == before + 1


@case
def many_at_once_have_their_own_answers():
    async def ask():
        async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0) as many:

            async def one(seed):
                fields = {"model": MODEL, "messages": ASK, "max_tokens": 12, "seed": seed, "temperature": 1.0}
                stream = await many.chat.completions.create(stream=True, **fields)
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

            return await asyncio.gather(*[one(seed) for seed in range(12)])

    texts = asyncio.run(ask())
    for seed, found in enumerate(texts):
        assert found == chat(seed=seed, max_tokens=12, temperature=1.0).choices[0].message.content


@case
def completions_of_texts_and_tokens():
    fields = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    prompt = "The capital of France is"
    answer = client.completions.create(prompt=prompt, **fields)
    assert answer.object == "text_completion" and answer.usage.completion_tokens == 8
    both = client.completions.create(prompt=[prompt, "One, two,"], n=2, **fields)
    assert [c.index for c in both.choices] == [0, 1, 2, 3] and both.choices[0].text == answer.choices[0].text
    ids = client.post("/../tokenize", body={"prompt": prompt}, cast_to=object)["tokens"]
    assert client.completions.create(prompt=ids, **fields).choices[0].text == answer.choices[0].text
    chunks = list(client.completions.create(prompt=prompt, stream=True, **fields))
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


@case
def completions_echo_and_log_probabilities():
    fields = {"model": MODEL, "prompt": "One, two,", "max_tokens": 6, "temperature": 0}
    plain = client.completions.create(**fields).choices[0].text
    echoed = client.completions.create(echo=True, **fields).choices[0].text
    assert echoed == "One, two," + plain
    chunks = client.completions.create(echo=True, stream=True, **fields)
    assert "".join(c.choices[0].text for c in chunks) == echoed
    found = client.completions.create(logprobs=3, **fields).choices[0].logprobs
    assert "".join(found.tokens) == plain and len(found.token_logprobs) == 6
    assert all(len(top) == 3 for top in found.top_logprobs) and found.text_offset[0] == 0
    whole = client.completions.create(echo=True, logprobs=3, **fields).choices[0]
    assert whole.text == echoed and whole.logprobs.token_logprobs[0] is None
    assert whole.logprobs.token_logprobs[-6:] == found.token_logprobs
    prompt = client.completions.create(echo=True, logprobs=3, **fields | {"max_tokens": 0}).choices[0]
    assert prompt.text == "One, two," and prompt.logprobs.token_logprobs == whole.logprobs.token_logprobs[:-6]
    chunks = client.completions.create(echo=True, logprobs=3, stream=True, **fields)
    streamed = [p for c in chunks if c.choices[0].logprobs for p in c.choices[0].logprobs.token_logprobs]
    assert streamed == whole.logprobs.token_logprobs


@case
def a_suffix_needs_a_model_for_it():
    try:
        answer = client.completions.create(model=MODEL, prompt="def f(", suffix="    return x", max_tokens=8)
        assert answer.choices[0].finish_reason
    except openai.BadRequestError as error:
        assert "fill" in error.message, error.message


@case
def responses_whole_and_streamed():
    fields = {"model": MODEL, "input": "Name a fruit.", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(instructions="Be brief.", **fields)
    assert whole.object == "response" and whole.output_text and whole.output[0].role == "assistant"
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    if whole.status == "incomplete":
        assert whole.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(instructions="Be brief.", stream=True, **fields))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type for e in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{whole.status}",
    ]
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert deltas == whole.output_text == events[-1].response.output_text
    with client.responses.stream(instructions="Be brief.", **fields) as stream:
        for _ in stream:
            pass
        if whole.status == "completed":
            assert stream.get_final_response().output_text == whole.output_text


@case
def responses_continue_a_conversation():
    turns = [
        {"role": "user", "content": "My name is Ann."},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello Ann."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
    ]
    answer = client.responses.create(model=MODEL, input=turns, max_output_tokens=8, store=False)
    assert answer.output_text is not None and answer.usage.input_tokens > 20
    error = raises(openai.BadRequestError, client.responses.create, model=MODEL, input="x", previous_response_id="r")
    assert error.param == "previous_response_id"
    assert raises(openai.BadRequestError, client.responses.create, model=MODEL, input=[]).param == "input"


@case
def the_cache_is_counted():
    turns = [{"role": "user", "content": "Count: " + " ".join(map(str, range(150)))}]
    first = chat(messages=turns)
    turns += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Go on."}]
    second = chat(messages=turns)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens // 64 * 64


def embed(texts, **fields):
    """The vectors of texts."""
    return [v.embedding for v in client.embeddings.create(model=MODEL, input=texts, **fields).data]


def is_close(a, b):
    return len(a) == len(b) and all(abs(x - y) < 1e-6 for x, y in zip(a, b))


@case
def embeddings_are_normal():
    found = client.embeddings.create(model=MODEL, input=["a fox", "a dog"])
    assert [v.index for v in found.data] == [0, 1] and found.usage.prompt_tokens == found.usage.total_tokens > 3
    fox, dog = (v.embedding for v in found.data)
    assert fox != dog and all(abs(sum(x * x for x in v) - 1) < 1e-3 for v in (fox, dog))
    assert is_close(embed("a fox")[0], fox) and is_close(embed("a fox", encoding_format="float")[0], fox)
    many = embed([f"text {i}" for i in range(50)] + ["a fox"])
    assert len(many) == 51 and many[50] == embed("a fox")[0]
    ids = client.post("/../tokenize", body={"content": "a fox", "add_special": True}, cast_to=object)["tokens"]
    assert is_close(embed(ids)[0], fox) and is_close(embed([ids, ids])[1], fox)
    short = embed("a fox", dimensions=8)[0]
    assert len(short) == 8 and abs(sum(x * x for x in short) - 1) < 1e-3
    for fields, param in [({"dimensions": 10**6}, "dimensions"), ({"input": [10**8]}, "input"), ({"input": []}, "input")]:
        error = raises(openai.BadRequestError, client.embeddings.create, **{"model": MODEL, "input": "x"} | fields)
        assert error.param == param, error
    error = raises(openai.BadRequestError, client.embeddings.create, model=MODEL, input="fox " * 20_000)
    assert error.code == "context_length_exceeded"


FUNCTION = {"name": "weather", "description": "The weather of a city", "parameters": WEATHER}
TOOLS = [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "now", "description": "The time"}}]


@case
def required_tools_are_called():
    named = {"type": "function", "function": {"name": "weather"}}
    for fields in [{"tool_choice": named}, {"tool_choice": "required", "tools": TOOLS[:1]}]:
        fields = {"tools": TOOLS, "max_tokens": 200, "parallel_tool_calls": False} | fields
        choice = chat(**fields).choices[0]
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and call.type == "function" and call.function.name == "weather"
        assert isinstance(json.loads(call.function.arguments)["city"], str) and call.id
        with client.chat.completions.stream(model=MODEL, messages=ASK, seed=5, **fields) as stream:
            for _ in stream:
                pass
            folded = stream.get_final_completion().choices[0]
        assert folded.finish_reason == "tool_calls"
        assert [(c.id, c.function.name, c.function.arguments) for c in folded.message.tool_calls] == [
            (call.id, call.function.name, call.function.arguments)
        ]


@case
def results_of_tools_are_read():
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
    turns = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns += [{"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 25 degrees."}]
    answer, without = chat(messages=turns, tools=TOOLS), chat(tools=TOOLS)
    assert answer.choices[0].message.content is not None or answer.choices[0].message.tool_calls
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens > chat().usage.prompt_tokens


@case
def tools_that_must_not_be_called_are_not():
    answer = chat(tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == chat().choices[0].message.content


@case
def tools_of_responses_are_called():
    flat = [{"type": "function"} | FUNCTION]
    fields = {"model": MODEL, "input": "Rain?", "tools": flat, "max_output_tokens": 200, "tool_choice": "required"}
    fields |= {"temperature": 0, "parallel_tool_calls": False}
    answer = client.responses.create(**fields)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert answer.status == "completed" and call.name == "weather" and call.call_id
    assert isinstance(json.loads(call.arguments)["city"], str)
    events = list(client.responses.create(stream=True, **fields))
    deltas = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert deltas == call.arguments and len(deltas) > 5
    assert events[-1].response.output[-1].arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    turns = [{"role": "user", "content": "Rain?"}, call.to_dict(), result]
    again = client.responses.create(**fields | {"input": turns, "tool_choice": "auto", "max_output_tokens": 16})
    assert again.usage.input_tokens > answer.usage.input_tokens and again.output


@case
def answers_follow_schemas():
    place = {**WEATHER, "properties": {"city": {"type": "string", "maxLength": 12}}}
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": place, "strict": True}}
    for seed in range(3):
        fields = {"response_format": shape, "max_tokens": 200, "temperature": 1.2, "seed": seed}
        choice = chat(**fields).choices[0]
        found = json.loads(choice.message.content)
        assert choice.finish_reason == "stop" and list(found) == ["city"] and len(found["city"]) <= 12
        assert text(chat(stream=True, **fields)) == choice.message.content
    plain = chat(response_format={"type": "json_object"}, max_tokens=300, temperature=1.0).choices[0]
    assert plain.message.content.startswith("{")
    assert plain.finish_reason == "length" or isinstance(json.loads(plain.message.content), dict)
    form = {"format": {"type": "json_schema", "name": "place", "schema": place}}
    answer = client.responses.create(model=MODEL, input="Where?", text=form, max_output_tokens=100)
    assert len(json.loads(answer.output_text)["city"]) <= 12


@case
def schemas_that_cannot_be_enforced_are_refused():
    schema = {**WEATHER, "properties": {"city": {"type": "string", "pattern": "a(?=b)"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    error = raises(openai.BadRequestError, chat, response_format=shape)
    assert error.param == "response_format" and "#/properties/city/pattern" in error.message, error.message


if __name__ == "__main__":
    main()
