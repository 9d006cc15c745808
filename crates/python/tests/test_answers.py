"""Answers are those of the command, alone and in company."""

import json
import subprocess
import sys
import threading

import pytest

import nanoinfer

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, a small robot",
    "1, 2, 4, 8, 16,",
]
SAMPLERS = [
    {"temperature": 0},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 1.2, "top_k": 40, "seed": 1},
    {"temperature": 1.0, "top_p": 0.8, "min_p": 0.05, "seed": 2**40},
    {"temperature": 0.7, "repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1, "seed": 3},
]
FLAGS = {"temperature": "temp", "repetition_penalty": "repeat-penalty"}


def command(prompt, max_tokens, sampler, *more):
    """The JSON that the command prints."""
    options = [f"--{FLAGS.get(name, name.replace('_', '-'))}={value}" for name, value in sampler.items()]
    line = ["-m", "nanoinfer", "generate", "--model", "smollm2", "--json", "--prompt", prompt, "-n", str(max_tokens)]
    done = subprocess.run([sys.executable, *line, *options, *more], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tokens_are_those_of_the_command(model, sampler):
    answers = model.generate_many(PROMPTS, max_tokens=24, **sampler)
    alone = [model.generate(prompt, max_tokens=24, **sampler) for prompt in PROMPTS]
    for prompt, answer, single in zip(PROMPTS, answers, alone):
        want = command(prompt, 24, sampler)
        assert answer.tokens == single.tokens == want["tokens"]
        assert answer.text == single.text == want["text"]
        assert answer.finish_reason == want["finish_reason"]
        assert answer.stats["prompt_tokens"] == len(want["prompt_tokens"])


def test_chats_are_those_of_the_command(model):
    want = command("What is the capital of France?", 30, SAMPLERS[0], "--chat")
    answer = model.chat("What is the capital of France?", max_tokens=30, temperature=0)
    assert answer.tokens == want["tokens"] and answer.text == want["text"] == str(answer)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert model.chat(messages, max_tokens=30, temperature=0).tokens == answer.tokens
    again = model.chat([*messages, answer.as_message(), {"role": "user", "content": "And of Spain?"}], max_tokens=5)
    assert again.stats["prompt_tokens"] > answer.stats["prompt_tokens"] + len(answer.tokens)


def test_streams_are_the_same_answers(model):
    whole = model.generate(PROMPTS[2], max_tokens=40, temperature=0.9, seed=4)
    with model.stream(PROMPTS[2], max_tokens=40, temperature=0.9, seed=4) as stream:
        chunks = list(stream)
    assert "".join(map(str, chunks)) == stream.answer.text == whole.text
    assert [id for chunk in chunks for id in chunk.tokens] == stream.answer.tokens == whole.tokens
    assert (stream.answer.finish_reason, stream.answer.seed) == ("length", 4)
    messages = [{"role": "user", "content": "Say hi."}]
    chat = model.chat(messages, max_tokens=10, temperature=0)
    assert "".join(map(str, model.stream(messages, max_tokens=10, temperature=0))) == chat.text


def test_threads_make_one_batch(model):
    alone = [model.generate(f"{i} is", max_tokens=30, temperature=1, seed=i) for i in range(8)]
    found = [None] * 8

    def ask(i):
        found[i] = model.generate(f"{i} is", max_tokens=30, temperature=1, seed=i)

    threads = [threading.Thread(target=ask, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.tokens for answer in found] == [answer.tokens for answer in alone]


def test_stops_biases_and_ends(model):
    assert model.generate("1, 2, 3,", max_tokens=20, temperature=0, stop="6").stop == "6"
    paris = model.tokenize(" Paris", bos=False)[0]
    answer = model.generate(PROMPTS[0], max_tokens=1, temperature=0, logit_bias={paris: -100})
    assert answer.tokens != [paris]
    seeds = {model.generate("A", max_tokens=1, seed=-1).seed for _ in range(3)}
    assert len(seeds) == 3


def test_logprobs(model):
    answer = model.generate(PROMPTS[0], max_tokens=3, temperature=0, logprobs=2, prompt_logprobs=True)
    ids = model.tokenize(PROMPTS[0])
    assert [token.id for token in answer.logprobs] == answer.tokens
    assert [token.id for token in answer.prompt_logprobs] == ids[1:]
    import numpy

    logits = model.logits(ids + answer.tokens).astype(numpy.float64)
    logprobs = logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))
    scored = answer.prompt_logprobs + answer.logprobs
    for row, token in zip(logprobs, scored):
        assert abs(row[token.id] - token.logprob) < 1e-4
        assert len(token.top) == 2 and abs(row.max() - next(iter(token.top.values()))) < 1e-4


def test_structured_answers(model):
    import pydantic

    class City(pydantic.BaseModel, extra="forbid"):
        name: str = pydantic.Field(max_length=20)
        country: str = pydantic.Field(max_length=20)

    answer = model.chat("Describe Paris as JSON.", json_schema=City, temperature=0)
    assert isinstance(answer.parsed, City)
    answer = model.chat("Describe Paris as JSON.", json_schema=City.model_json_schema(), temperature=0)
    assert set(answer.parsed) == {"name", "country"}
    assert model.generate("Is the sky blue?", choice=["yes", "no"], temperature=0).text in ("yes", "no")
    assert model.generate("A year: ", regex="[0-9]{4}", temperature=0).text.isdigit()
    with pytest.raises(nanoinfer.RequestError, match="json_schema.*unevaluatedItems"):
        model.chat("x", json_schema={"type": "array", "unevaluatedItems": False})


def test_vectors_tokens_and_logits(model):
    import numpy

    vectors = model.embed(["one", "two", "one"])
    assert vectors.shape == (3, model.d_model) and vectors.dtype == numpy.float32
    assert (vectors[0] == vectors[2]).all() and (vectors[0] == model.embed("one")).all()
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1)
    ids = model.tokenize("Hello, world!")
    assert model.detokenize(numpy.array(ids)) == "Hello, world!"
    logits = model.logits(ids)
    kept = logits.copy()
    assert logits.shape == (len(ids), model.vocab_size) and not logits.flags.writeable
    model.logits(ids[::-1])
    assert (logits == kept).all() and (model.logits(ids[:2]) == logits[:2]).all()
    assert int(logits[-1].argmax()) == model.generate(ids, max_tokens=1, temperature=0).tokens[0]
