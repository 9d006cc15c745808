"""Ollama's Python client: chat, generate, embed, list, show; whole, streamed and asynchronous."""

import asyncio
import json

import ollama

from harness import MODEL, URL, case, main, raises, wait_until_idle

client = ollama.Client(URL)
ASK = [{"role": "user", "content": "Tell me a story about a fox."}]


def chat(messages=ASK, stream=False, **options):
    options = {"num_predict": 12, "temperature": 0, "seed": 3} | options
    return client.chat(model=MODEL, messages=messages, stream=stream, options=options)


@case
def models_are_listed_and_shown():
    assert [m.model for m in client.list().models] == [MODEL]
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities and shown.details.family
    assert any(key.endswith(".context_length") for key in shown.modelinfo)


@case
def a_whole_answer():
    answer = chat()
    assert answer.done and answer.done_reason == "length" and answer.model == MODEL
    assert answer.message.role == "assistant" and answer.message.content
    assert answer.eval_count == 12 and answer.prompt_eval_count > 8 and answer.eval_duration > 0


@case
def a_stream_is_the_whole_answer():
    parts = list(chat(stream=True))
    assert "".join(p.message.content for p in parts) == chat().message.content
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True] and parts[-1].eval_count == 12


@case
def generate_is_a_chat_of_one_turn():
    options = {"num_predict": 12, "temperature": 0}
    answer = client.generate(model=MODEL, prompt=ASK[0]["content"], options=options)
    assert answer.response == chat().message.content
    parts = client.generate(model=MODEL, prompt=ASK[0]["content"], options=options, stream=True)
    assert "".join(p.response for p in parts) == answer.response
    assert client.generate(model=MODEL, prompt="One, two,", raw=True, options=options).done
    assert client.generate(model=MODEL, prompt="Hi", system="Be brief.", options=options).response


@case
def options_change_the_answer():
    plain = chat().message.content
    stop = plain.split()[3]
    assert chat(stop=[stop]).message.content == plain[: plain.index(stop)]
    assert chat(temperature=1.2).message.content == chat(temperature=1.2).message.content
    assert chat(temperature=1.2, seed=4).message.content != chat(temperature=1.2).message.content


@case
def embeddings_are_given():
    two = client.embed(model=MODEL, input=["a fox", "a dog"])
    one = client.embed(model=MODEL, input="a fox").embeddings[0]
    assert len(two.embeddings) == 2 and list(two.embeddings[0]) == list(one) != list(two.embeddings[1])
    assert abs(sum(x * x for x in one) - 1) < 1e-3 and two.prompt_eval_count > 3
    assert list(client.embeddings(model=MODEL, prompt="a fox").embedding) == list(one)
    assert len(client.embed(model=MODEL, input="a fox", dimensions=8).embeddings[0]) == 8
    error = raises(ollama.ResponseError, client.embed, model=MODEL, input="fox " * 20_000)
    assert error.status_code == 400 and "context" in error.error


@case
def errors_arrive():
    error = raises(ollama.ResponseError, client.chat, model="llama9", messages=ASK)
    assert error.status_code == 404 and "llama9" in error.error
    error = raises(ollama.ResponseError, chat, [{"role": "user", "content": "fox " * 20_000}])
    assert error.status_code == 400 and "context" in error.error
    assert raises(ollama.ResponseError, chat, temperature=-1).status_code == 400


@case
def a_stream_can_be_left():
    stream = chat(stream=True, num_predict=4000, ignore_eos=True)
    for _, _ in zip(range(3), stream):
        pass
    stream.close()
    wait_until_idle()


@case
def asynchronous_answers_are_the_same():
    async def ask():
        many = ollama.AsyncClient(URL)
        options = {"num_predict": 12, "temperature": 0, "seed": 3}
        return await asyncio.gather(*[many.chat(model=MODEL, messages=ASK, options=options) for _ in range(4)])

    assert {a.message.content for a in asyncio.run(ask())} == {chat().message.content}


@case
def formats_are_followed():
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = client.chat(model=MODEL, messages=ASK, options={"num_predict": 100}, format=schema)
    assert answer.done_reason == "stop" and json.loads(answer.message.content)["a"] <= 99
    answer = client.chat(model=MODEL, messages=ASK, options={"num_predict": 100, "temperature": 0}, format="json")
    assert answer.message.content.startswith("{")


@case
def tools_are_offered():
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return city

    answer = client.chat(model=MODEL, messages=ASK, options={"num_predict": 12}, tools=[weather])
    assert answer.prompt_eval_count > chat().prompt_eval_count and (answer.message.content or answer.message.tool_calls)


if __name__ == "__main__":
    main()
