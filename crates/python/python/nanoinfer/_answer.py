"""Answers, whole and while they are generated."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Iterator

from ._core import Answers

if TYPE_CHECKING:
    from ._wait import Waiter


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability, with those of the most likely tokens at its place."""

    id: int
    logprob: float
    top: dict[int, float]
    """By id, most likely first."""


@dataclass
class ToolCall:
    """A call of a tool."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""
    complete: bool = False

    def as_message(self) -> dict[str, Any]:
        """The call as a member of a message's `tool_calls`."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass
class Answer:
    """A whole answer. `str(answer)` is its text."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    """All generated tokens, with the one that ends the answer."""
    reasoning: str = ""
    """What the model thought before it answered, if it shows that."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str = ""
    """`stop`, `tool_calls`, `length`, or `context` if the context is full."""
    stop: str | None = None
    """The stop string at which it ended."""
    seed: int = 0
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None
    """Those of the prompt's tokens but the first."""
    stats: dict[str, float] = field(default_factory=dict)
    """`prompt_tokens`, `cached_tokens` of them, `generated_tokens`, and times."""
    parse: Callable[[str], Any] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    @property
    def parsed(self) -> Any:
        """The text as JSON, or as an instance of the class that was given as `json_schema`."""
        return (self.parse or json.loads)(self.text)

    def as_message(self) -> dict[str, Any]:
        """The answer as a message of the conversation.

        >>> Answer(text="Hello!").as_message()
        {'role': 'assistant', 'content': 'Hello!'}
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.as_message() for call in self.tool_calls]
        return message

    def _add(self, parts: list[tuple[Any, ...]]) -> None:
        for kind, *rest in parts:
            if kind == "text":
                self.text += rest[0]
            elif kind == "reasoning":
                self.reasoning += rest[0]
            elif kind == "call":
                self.tool_calls.append(ToolCall(rest[1], rest[2], ""))
            elif kind == "arguments":
                self.tool_calls[rest[0]].arguments += rest[1]
            elif kind == "call_end":
                self.tool_calls[rest[0]].complete = rest[1]


@dataclass(frozen=True)
class Chunk:
    """What an answer gained. `str(chunk)` is its text."""

    text: str
    tokens: list[int]
    reasoning: str = ""

    def __str__(self) -> str:
        return self.text


class Folding:
    """Makes answers of updates."""

    def __init__(self, answers: Answers, prompts: list[list[int]] | None, parse: Callable[[str], Any] | None):
        n = len(answers.prompts)
        self.whole = [Answer(seed=answers.seed + i, parse=parse) for i in range(n)]
        self.answers, self.prompts = answers, prompts

    def add(self, update: tuple[Any, ...]) -> Chunk | None:
        kind, *rest = update
        if kind == "chunk":
            choice, count, parts, scored = rest
            answer = self.whole[choice]
            text, reasoning = len(answer.text), len(answer.reasoning)
            answer._add(parts)
            if scored is not None:
                answer.logprobs = answer.logprobs or []
                answer.logprobs.append(TokenLogprob(scored[0], scored[1], dict(scored[2])))
            tokens = self.answers.tokens(choice, len(answer.tokens), count)
            answer.tokens += tokens
            return Chunk(answer.text[text:], tokens, answer.reasoning[reasoning:])
        if kind == "prompt":
            choice, scored = rest
            ids = self.prompts[choice][1:] if self.prompts else [-1] * len(scored)
            logprobs = [TokenLogprob(id, x, dict(top)) for id, (x, top) in zip(ids, scored)]
            self.whole[choice].prompt_logprobs = logprobs
        if kind == "end":
            choice, reason, stop, stats = rest
            answer = self.whole[choice]
            answer.finish_reason, answer.stop, answer.stats = reason, stop, stats
            answer.tokens += self.answers.tokens(choice, len(answer.tokens))
        return None

    def all(self, updates: list[tuple[Any, ...]], tokens: list[list[int]]) -> list[Answer]:
        for update in updates:
            self.add(update)
        for answer, ids in zip(self.whole, tokens):
            answer.tokens = ids
        return self.whole


class Stream:
    """An answer while it is generated: an iterator of its chunks. Leaving it early cancels the rest.

    >>> import nanoinfer
    >>> model = nanoinfer.Model.open("smollm2")
    >>> with model.stream("One, two, three,", max_tokens=8, temperature=0) as stream:
    ...     text = "".join(chunk.text for chunk in stream)
    >>> text == stream.answer.text
    True
    """

    def __init__(self, folding: Folding):
        self._folding = folding

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        return self._folding.whole[0]

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        try:
            while (update := self._folding.answers.next()) is not None:
                if (chunk := self._folding.add(update)) is not None:
                    return chunk
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Cancels what is still to come."""
        self._folding.answers.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream:
    """Like `Stream`, for `async for`."""

    def __init__(self, folding: Folding, waiter: Waiter):
        self._folding, self._waiter = folding, waiter

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        return self._folding.whole[0]

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Chunk:
        try:
            while (update := await self._waiter.update(self._folding.answers)) is not None:
                if (chunk := self._folding.add(update)) is not None:
                    return chunk
        except BaseException:
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancels what is still to come."""
        self._folding.answers.close()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
