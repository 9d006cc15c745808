"""LiteLLM, with the server as a provider of OpenAI's, Anthropic's, vLLM's and Ollama's APIs."""

import asyncio
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it is downloaded

import litellm

from harness import BASE, KEY, MODEL, URL, case, main, raises, wait_until_idle

litellm.telemetry = False
litellm.suppress_debug_info = True
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]
APIS = {
    f"openai/{MODEL}": BASE,
    f"hosted_vllm/{MODEL}": BASE,
    f"text-completion-openai/{MODEL}": BASE,
    f"anthropic/{MODEL}": URL,
    f"ollama_chat/{MODEL}": URL,
    f"ollama/{MODEL}": URL,
}


def ask(model=f"openai/{MODEL}", **fields):
    # What is not rendered as a chat might end at once.
    asked = [{"role": "user", "content": "One, two, three,"}] if model.startswith("text-") else ASK
    fields = {"messages": asked, "max_tokens": 12, "temperature": 0} | fields
    return litellm.completion(model=model, api_base=APIS.get(model, BASE), api_key=KEY, num_retries=0, **fields)


def text(stream):
    return "".join(part.choices[0].delta.content or "" for part in stream if part.choices)


@case
def every_api_answers():
    for model in APIS:
        answer = ask(model)
        assert answer.choices[0].message.content, model
        assert answer.usage.completion_tokens == 12, (model, answer.usage)


@case
def every_api_streams_the_whole_answer():
    for model in APIS:
        whole, streamed = ask(model).choices[0].message.content, text(ask(model, stream=True))
        # Its client for Ollama strips nothing, that for text completions does.
        assert streamed.strip() == whole.strip(), (model, streamed, whole)


@case
def chats_agree_between_apis():
    texts = {ask(m).choices[0].message.content for m in APIS if not m.startswith(("text-", "ollama/"))}
    assert len(texts) == 1, texts


@case
def usage_of_streams():
    parts = list(ask(stream=True, stream_options={"include_usage": True}))
    assert parts[-1].usage.completion_tokens == 12


@case
def several_choices_stop_and_seed():
    answer = ask(n=2, temperature=1.2, seed=4)
    assert len(answer.choices) == 2
    plain = ask().choices[0].message.content
    stop = plain.split()[3]
    for model in [f"openai/{MODEL}", f"anthropic/{MODEL}", f"ollama_chat/{MODEL}"]:
        assert ask(model, stop=[stop]).choices[0].message.content == plain[: plain.index(stop)], model


@case
def errors_are_mapped():
    long = [{"role": "user", "content": "fox " * 20_000}]
    for model in [f"openai/{MODEL}", f"anthropic/{MODEL}", f"hosted_vllm/{MODEL}"]:
        raises(litellm.ContextWindowExceededError, ask, model, messages=long)
    raises(litellm.NotFoundError, ask, "openai/gpt-9")
    raises(litellm.BadRequestError, ask, temperature=-1)


@case
def asynchronous_streams():
    async def one():
        fields = {"messages": ASK, "max_tokens": 12, "temperature": 0}
        stream = await litellm.acompletion(model=f"openai/{MODEL}", api_base=BASE, api_key=KEY, stream=True, **fields)
        return "".join([p.choices[0].delta.content or "" async for p in stream if p.choices])

    async def all_of_them():
        return await asyncio.gather(*[one() for _ in range(4)])

    assert set(asyncio.run(all_of_them())) == {ask().choices[0].message.content}
    wait_until_idle()


@case
def the_responses_api():
    fields = {"model": f"openai/{MODEL}", "input": "Name a fruit.", "max_output_tokens": 8}
    answer = litellm.responses(api_base=BASE, api_key=KEY, temperature=0, **fields)
    assert answer.output[0].content[0].text


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": SCHEMA}}]


@case
def every_api_calls_tools():
    for model in (f"openai/{MODEL}", f"hosted_vllm/{MODEL}", f"anthropic/{MODEL}"):
        fields = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 200, "parallel_tool_calls": False}
        choice = ask(model, **fields).choices[0]
        function = choice.message.tool_calls[0].function
        assert choice.finish_reason == "tool_calls" and function.name == "weather", (model, choice)
        assert len(json.loads(function.arguments)["city"]) <= 12
        parts = [p.choices[0].delta for p in ask(model, stream=True, **fields) if p.choices]
        calls = [c for d in parts for c in d.tool_calls or [] if c.index == 0]
        streamed = "".join(c.function.arguments or "" for c in calls)
        assert json.loads(streamed) == json.loads(function.arguments), (model, streamed)


@case
def every_api_follows_schemas():
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    for model in (f"openai/{MODEL}", f"hosted_vllm/{MODEL}", f"ollama_chat/{MODEL}"):
        found = json.loads(ask(model, response_format=form, max_tokens=100).choices[0].message.content)
        assert list(found) == ["city"] and len(found["city"]) <= 12, (model, found)


if __name__ == "__main__":
    main()
