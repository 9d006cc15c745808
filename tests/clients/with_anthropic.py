"""The Anthropic SDK: messages, whole and streamed, and the counting of tokens."""

import json

import anthropic

from harness import KEY, MODEL, URL, assert_cancelled, case, main, raises

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]
TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def message(extra=None, **fields):
    """A message. Newer versions of the SDK have no parameters for sampling, so these are in `extra`."""
    extra = {"temperature": 0.0} | (extra or {})
    return client.messages.create(**{"model": MODEL, "messages": ASK, "max_tokens": 16} | fields, extra_body=extra)


def inputs(usage):
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


@case
def a_key_is_required():
    stranger = anthropic.Anthropic(base_url=URL, api_key="sk-wrong", max_retries=0)
    error = raises(anthropic.AuthenticationError, stranger.messages.create, model=MODEL, messages=ASK, max_tokens=1)
    assert error.body["error"]["type"] == "authentication_error"


@case
def models_are_listed():
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    raises(anthropic.NotFoundError, client.models.retrieve, "claude-9")


@case
def a_whole_message():
    answer = message()
    assert answer.type == "message" and answer.role == "assistant" and answer.model == MODEL
    assert answer.id.startswith("msg_") and answer.stop_reason == "max_tokens" and answer.stop_sequence is None
    assert [block.type for block in answer.content] == ["text"] and answer.content[0].text
    assert answer.usage.output_tokens == 16 and inputs(answer.usage) > 8


@case
def a_stream_is_the_whole_message():
    whole = message()
    events = list(message(stream=True))
    kinds = [e.type for e in events if e.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert inputs(events[0].message.usage) == inputs(whole.usage)
    with client.messages.stream(model=MODEL, messages=ASK, max_tokens=16, extra_body={"temperature": 0.0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == 16 and final.stop_reason == "max_tokens"
    assert inputs(final.usage) == inputs(whole.usage)


@case
def system_text_and_blocks():
    plain = message(system="Be brief.", messages=[{"role": "user", "content": "One.\n\nTwo."}])
    blocks = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}}]
    system = [{"type": "text", "text": "Be brief."}]
    assert message(system=system, messages=[{"role": "user", "content": blocks}]).content == plain.content
    turns = [*ASK, {"role": "assistant", "content": [{"type": "text", "text": "No."}]}, {"role": "user", "content": "Do."}]
    assert inputs(message(messages=turns).usage) > inputs(plain.usage)


@case
def tokens_are_counted_as_they_are_used():
    for fields in [{}, {"system": "Be brief."}]:
        counted = client.messages.count_tokens(model=MODEL, messages=ASK, **fields).input_tokens
        assert counted == inputs(message(max_tokens=1, **fields).usage)


@case
def a_stop_sequence_is_named():
    plain = message().content[0].text
    stop = plain.split()[3]
    answer = message(stop_sequences=["never appears", stop])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == stop
    assert answer.content[0].text == plain[: plain.index(stop)]
    streamed = list(message(stop_sequences=[stop], stream=True))
    delta = next(e for e in streamed if e.type == "message_delta").delta
    assert delta.stop_reason == "stop_sequence" and delta.stop_sequence == stop


@case
def a_seed_gives_the_same_text():
    extra = {"temperature": 1.0, "seed": 9}
    assert message(extra).content == message(extra).content
    assert message(extra | {"seed": 10}).content != message(extra).content


@case
def errors_have_their_type():
    for fields, text in [
        ({"extra": {"temperature": "hot"}}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"max_tokens": -5}, "max_tokens"),
    ]:
        error = raises(anthropic.BadRequestError, message, **fields)
        assert error.body["type"] == "error" and error.body["error"]["type"] == "invalid_request_error"
        assert text in error.body["error"]["message"], error.body
    assert raises(anthropic.NotFoundError, message, model="claude-9").body["error"]["type"] == "not_found_error"
    error = raises(anthropic.BadRequestError, message, messages=[{"role": "user", "content": "fox " * 20_000}])
    assert "prompt is too long" in error.body["error"]["message"]


@case
def a_cancelled_stream_ends_in_the_engine():
    assert_cancelled(message(max_tokens=4000, stream=True, extra={"ignore_eos": True}), 6)


@case
def a_changing_billing_line_costs_no_cache():
    rules = " ".join(f"Rule {i}: be kind." for i in range(40))
    system = [f"x-anthropic-billing-header: cc_version=1; cch={n};\n{rules}" for n in ("a1b2c", "d3e4f")]
    message(system=system[0], max_tokens=1)
    usage = message(system=system[1], max_tokens=1).usage
    assert usage.cache_read_input_tokens >= 192 and usage.input_tokens <= 64


@case
def required_tools_are_called():
    for choice in [{"type": "tool", "name": "weather"}, {"type": "any"}]:
        choice["disable_parallel_tool_use"] = True
        fields = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 200}
        answer = message({"seed": 5}, **fields)
        use = answer.content[-1]
        assert answer.stop_reason == "tool_use" and use.type == "tool_use" and use.name == "weather" and use.id
        assert isinstance(use.input["city"], str)
        with client.messages.stream(model=MODEL, messages=ASK, extra_body={"temperature": 0.0, "seed": 5}, **fields) as stream:
            parts = "".join(e.partial_json for e in stream if e.type == "input_json")
            final = stream.get_final_message()
        assert json.loads(parts) == final.content[-1].input == use.input and final.stop_reason == "tool_use"
        assert final.content[-1].id == use.id


@case
def results_of_tools_are_read():
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}
    turns = [*ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    answer = message(messages=turns, tools=[TOOL])
    assert answer.content and inputs(answer.usage) > inputs(message(tools=[TOOL]).usage) > inputs(message().usage)


@case
def answers_follow_schemas():
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 9}}, "required": ["n"]}
    form = {"type": "json_schema", "schema": schema | {"additionalProperties": False}}
    answer = message({"output_config": {"format": form}}, max_tokens=40)
    assert answer.stop_reason == "end_turn" and 5 <= json.loads(answer.content[0].text)["n"] <= 9


if __name__ == "__main__":
    main()
