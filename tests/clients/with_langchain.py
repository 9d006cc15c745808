"""LangChain's ChatOpenAI, OpenAI and OpenAIEmbeddings."""

import asyncio

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from harness import BASE, KEY, MODEL, case, main, raises

AT = {"base_url": BASE, "api_key": KEY, "model": MODEL, "max_retries": 0}
SCHEMA = {
    "title": "Place",
    "description": "A place",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def chat(**fields):
    return ChatOpenAI(**AT | {"temperature": 0, "max_tokens": 12, "seed": 3} | fields)


@case
def a_whole_answer_with_usage():
    answer = chat().invoke([SystemMessage("Be brief."), HumanMessage("Name a fruit.")])
    assert answer.content and answer.usage_metadata["output_tokens"] <= 12
    assert answer.response_metadata["model_name"] == MODEL
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


@case
def a_stream_is_the_whole_answer():
    whole = chat().invoke("Tell me a story.")
    folded = None
    for part in chat(stream_usage=True).stream("Tell me a story."):
        folded = part if folded is None else folded + part
    assert folded.content == whole.content
    assert folded.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


@case
def a_conversation_and_a_chain():
    turns = [HumanMessage("Hello."), AIMessage("Hello, Ann."), HumanMessage("Go on.")]
    assert chat().invoke(turns).content
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Name a {thing}.")]) | chat()
    whole = chain.batch([{"thing": "fruit"}, {"thing": "colour"}, {"thing": "fruit"}])
    assert whole[0].content == whole[2].content


@case
def asynchronous_answers_are_the_same():
    async def ask():
        return await asyncio.gather(*[chat().ainvoke("Tell me a story.") for _ in range(4)])

    assert {a.content for a in asyncio.run(ask())} == {chat().invoke("Tell me a story.").content}


@case
def stop_logprobs_and_bind():
    plain = chat().invoke("Tell me a story.").content
    stop = plain.split()[2]
    assert chat().invoke("Tell me a story.", stop=[stop]).content == plain[: plain.index(stop)]
    answer = chat(logprobs=True, top_logprobs=2).invoke("Tell me a story.")
    assert len(answer.response_metadata["logprobs"]["content"]) == 12


@case
def completions():
    text = OpenAI(**AT, temperature=0, max_tokens=6).invoke("One, two,")
    streamed = "".join(OpenAI(**AT, temperature=0, max_tokens=6).stream("One, two,"))
    assert text == streamed and text


@case
def the_responses_api():
    answer = chat(use_responses_api=True, seed=None).invoke("Name a fruit.")
    assert answer.text
    parts = [p.text for p in chat(use_responses_api=True, seed=None).stream("Name a fruit.")]
    assert "".join(parts) == answer.text


@case
def errors_arrive():
    assert raises(openai.NotFoundError, chat(model="gpt-9").invoke, "x").code == "model_not_found"
    error = raises(openai.BadRequestError, chat().invoke, "fox " * 20_000)
    assert error.code == "context_length_exceeded"


@case
def structured_output_is_followed():
    for method in ("json_schema", "function_calling"):
        found = chat(max_tokens=200).with_structured_output(SCHEMA, method=method).invoke("Where is the tower?")
        assert list(found) == ["city"] and isinstance(found["city"], str), (method, found)
    model = chat(max_tokens=300).with_structured_output(SCHEMA, method="json_mode")
    try:
        assert isinstance(model.invoke("Answer in JSON: where is the tower?"), dict)
    except openai.LengthFinishReasonError as error:  # any JSON may be long
        assert error.completion.choices[0].message.content.startswith("{")


@case
def tools_are_called():
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    model = chat(max_tokens=200).bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
    turns = [HumanMessage("Rain in Paris?")]
    answer = model.invoke(turns)
    (call,) = answer.tool_calls
    assert call["name"] == "weather" and isinstance(call["args"]["city"], str)
    folded = None
    for part in model.stream(turns):
        folded = part if folded is None else folded + part
    assert [(c["name"], c["args"]) for c in folded.tool_calls] == [(call["name"], call["args"])]
    turns += [answer, ToolMessage("Sunny.", tool_call_id=call["id"])]
    assert chat().bind_tools([weather]).invoke(turns).usage_metadata["input_tokens"] > 20


@case
def embeddings_are_given():
    embed = OpenAIEmbeddings(**AT, check_embedding_ctx_length=False)
    a, b = embed.embed_documents(["a", "b"])
    assert a != b and len(a) == len(b) > 8
    again = embed.embed_query("a")
    assert all(abs(x - y) < 1e-6 for x, y in zip(a, again))


if __name__ == "__main__":
    main()
