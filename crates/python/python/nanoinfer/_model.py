"""Models."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Iterable, Mapping, Sequence, TypedDict, Union

from . import _core
from ._answer import Answer, AsyncStream, Folding, Stream

if TYPE_CHECKING:
    import numpy
    from typing_extensions import Unpack

    from ._wait import Waiter

Prompt = Union[str, Sequence[int]]
Messages = Union[str, Sequence[Mapping[str, Any]]]


class Options(TypedDict, total=False):
    """Options of an answer. What is absent has the model's own default."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    """0 by default; -1 is a random one."""
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logit_bias: Mapping[int, float]
    logprobs: int
    """Report the log-probability of each token, and of so many most likely ones."""
    json_schema: Any
    """A JSON schema as a dict or text, or a pydantic class."""
    regex: str
    choice: Sequence[str]
    grammar: str
    """GBNF or Lark."""
    priority: str
    """`priority` or `flex`: before or after other requests."""


class TextOptions(Options, total=False):
    """Options of a continuation."""

    prompt_logprobs: bool
    """Report log-probabilities of the prompt too; needs `logprobs`."""
    special: bool
    """Names of control tokens in the prompt are control tokens."""
    suffix: str
    """The text after the answer, for models that fill gaps."""


class ChatOptions(Options, total=False):
    """Options of an answer to a conversation."""

    tools: Sequence[Mapping[str, Any]]
    """In OpenAI's form."""
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    reasoning_effort: str
    template_variables: Mapping[str, Any]


_TEXT, _CHAT = set(TextOptions.__annotations__), set(ChatOptions.__annotations__)
_RENAMED = {
    "regex": "guided_regex",
    "choice": "guided_choice",
    "priority": "service_tier",
    "special": "parse_special",
    "template_variables": "chat_template_kwargs",
}


def _schema(schema: Any) -> tuple[Any, Callable[[str], Any] | None]:
    """A schema as JSON, and what makes an instance of its class."""
    if hasattr(schema, "model_json_schema"):
        return schema.model_json_schema(), schema.model_validate_json
    return schema, None


def _request(known: set[str], options: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[str], Any] | None]:
    """The fields of a request, and what parses its answer."""
    if unknown := sorted(set(options) - known):
        raise TypeError(f"unknown option {unknown[0]!r}; the options are {', '.join(sorted(known))}")
    request: dict[str, Any] = {"seed": 0, "max_tokens": -1}
    parse = None
    for name, value in options.items():
        if value is None:
            continue
        if name == "json_schema":
            value, parse = _schema(value)
        elif name == "logit_bias":
            value = {str(id): bias for id, bias in value.items()}
        elif name not in ("stop", "grammar") and isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
            value = list(value)
        request[_RENAMED.get(name, name)] = value
    return request, parse


def _ids(tokens: Iterable[int]) -> list[int]:
    return [int(id) for id in tokens]


class Model:
    """An open model, which any thread and any event loop may use.

    `Model.open` opens one. It ends when it is closed, left as a context manager, or no longer used.
    """

    def __init__(self, core: _core.Model, name: str = ""):
        if not isinstance(core, _core.Model):
            raise TypeError(f"to open a model, use Model.open({core!r})")
        self._core, self._name, self._info = core, name, core.info()

    @classmethod
    def open(
        cls,
        name: str | os.PathLike[str],
        *,
        quant: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        in_memory: bool = False,
        threads: int | None = None,
        ctx: int | None = None,
        sequences: int | None = None,
        kv: str | None = None,
        kv_mb: int | None = None,
        pass_ms: float | None = None,
        queue: int | None = None,
        status: Callable[..., object] | None = None,
    ) -> Model:
        """Opens a model: a `.nano` file, a GGUF file, a Hugging Face folder, a hub id such as
        `HuggingFaceTB/SmolLM2-135M-Instruct` or `org/name:file.gguf`, or `smollm2`. What is not a `.nano` file is
        converted once and kept in the cache folder; what is not there is downloaded unless `offline`.

        - `quant`: the precision to convert to: `q8`, `q5`, `q4`, `q3`, `q2`, `f32`, or bits per weight such as `4.25`
        - `revision`: the branch, tag or commit of a hub model
        - `in_memory`: read the file instead of mapping it
        - `threads`: by default, the physical cores available to this process
        - `ctx`: tokens in a context; by default, the length that the model was trained for
        - `sequences`: how many answers are generated at once (64); further ones wait
        - `kv`: precision of cached keys and values: `q8`, `q4`, `f16`, `f32`
        - `kv_mb`: megabytes for the keys and values of all contexts; by default, a quarter of the free memory
        - `pass_ms`: milliseconds for a pass while answers are generated (150)
        - `queue`: how many requests may wait (4096)
        - `status`: called with a message, or with what is done and the total of long work

        >>> Model.open("smollm2", ctx=256).ctx
        256
        >>> Model.open("missing.nano")
        Traceback (most recent call last):
        nanoinfer.NanoInferError: model "missing.nano": ...
        """
        options = {
            "quant": quant,
            "revision": revision,
            "offline": offline,
            "in_memory": in_memory,
            "threads": threads,
            "ctx": ctx,
            "sequences": sequences,
            "kv": kv,
            "kv_mb": kv_mb,
            "pass_ms": pass_ms,
            "queue": queue,
        }
        return cls(_core.open(os.fspath(name), json.dumps(options), status), str(name))

    # Answers

    def _ask(self, prompt: Prompt, options: Mapping[str, Any]) -> Folding:
        request, parse = _request(_TEXT, options)
        scored = request.pop("prompt_logprobs", False)
        if scored and "logprobs" not in request:
            raise _core.RequestError("prompt_logprobs: requires logprobs")
        if scored and isinstance(prompt, str):
            prompt = self.tokenize(prompt, special=request.get("parse_special", False))
        request["prompt"] = prompt if isinstance(prompt, str) else _ids(prompt)
        request["echo"] = scored
        return Folding(self._core.ask(False, json.dumps(request)), [request["prompt"]] if scored else None, parse)

    def _ask_chat(self, messages: Messages, options: Mapping[str, Any]) -> Folding:
        request, parse = _request(_CHAT, options)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        request["messages"] = list(messages)
        if (logprobs := request.pop("logprobs", None)) is not None:
            request["logprobs"], request["top_logprobs"] = True, logprobs
        return Folding(self._core.ask(True, json.dumps(request)), None, parse)

    def _ask_any(self, prompt: Prompt | Messages, options: Mapping[str, Any]) -> Folding:
        is_chat = not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)
        return self._ask_chat(prompt, options) if is_chat else self._ask(prompt, options)  # type: ignore[arg-type]

    @staticmethod
    def _collect(foldings: list[Folding]) -> list[Answer]:
        try:
            collected = _core.collect([folding.answers for folding in foldings])
        finally:
            for folding in foldings:
                folding.answers.close()
        return [folding.all(*all)[0] for folding, all in zip(foldings, collected)]

    def generate(self, prompt: Prompt, **options: Unpack[TextOptions]) -> Answer:
        """Continues a text or tokens. `Options` and `TextOptions` list the options.

        >>> model = Model.open("smollm2")
        >>> model.generate("The capital of France is", max_tokens=3, temperature=0).text
        ' Paris...'
        """
        return self._collect([self._ask(prompt, options)])[0]

    def generate_many(self, prompts: Iterable[Prompt], **options: Unpack[TextOptions]) -> list[Answer]:
        """Continues many prompts in the same passes. Each has the answer that it has alone."""
        return self._collect([self._ask(prompt, options) for prompt in prompts])

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Answer:
        """Answers a conversation, or one message. `Options` and `ChatOptions` list the options.

        >>> model = Model.open("smollm2")
        >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        >>> answer = model.chat("What is two plus two?", json_schema=schema, max_tokens=30, temperature=0)
        >>> type(answer.parsed["n"])
        <class 'int'>
        """
        return self._collect([self._ask_chat(messages, options)])[0]

    def stream(self, prompt: Prompt | Messages, **options: Any) -> Stream:
        """Continues a text or tokens, or answers a list of messages, and shows the answer while it is generated."""
        return Stream(self._ask_any(prompt, options))

    # The same for asyncio

    async def _prepared(self, ask: Callable[..., Any], *args: Any) -> Any:
        import asyncio

        # The first grammar of a model takes a while.
        return await asyncio.to_thread(ask, *args)

    async def _read(self, folding: Folding) -> Answer:
        waiter = _waiter()
        try:
            while (update := await waiter.update(folding.answers)) is not None:
                folding.add(update)
        finally:
            folding.answers.close()
        return folding.whole[0]

    async def generate_async(self, prompt: Prompt, **options: Unpack[TextOptions]) -> Answer:
        """Like `generate`; cancelling the task cancels the request."""
        return await self._read(await self._prepared(self._ask, prompt, options))

    async def chat_async(self, messages: Messages, **options: Unpack[ChatOptions]) -> Answer:
        """Like `chat`; cancelling the task cancels the request."""
        return await self._read(await self._prepared(self._ask_chat, messages, options))

    async def stream_async(self, prompt: Prompt | Messages, **options: Any) -> AsyncStream:
        """Like `stream`: `async for chunk in await model.stream_async(…)`."""
        return AsyncStream(await self._prepared(self._ask_any, prompt, options), _waiter())

    # Vectors, tokens, logits

    def _embed(self, texts: Any, options: Mapping[str, Any]) -> tuple[_core.Floats, bool]:
        is_one = isinstance(texts, str)
        inputs = [texts] if is_one else [text if isinstance(text, str) else _ids(text) for text in texts]
        request = {"input": inputs, **{name: value for name, value in options.items() if value is not None}}
        return self._core.embed(json.dumps(request)), is_one

    def embed(
        self,
        texts: str | Sequence[Prompt],
        *,
        pooling: str = "last",
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> numpy.ndarray:
        """Vectors of length 1: `[dimensions]` of one text, `[texts, dimensions]` of a list. `pooling` is `last` or
        `mean`; `truncate` cuts off what does not fit into the context.

        >>> vectors = Model.open("smollm2").embed(["one", "two"])
        >>> vectors.shape, str(vectors.dtype)
        ((2, 576), 'float32')
        """
        options = {"pooling": pooling, "dimensions": dimensions, "truncate": truncate}
        floats, is_one = self._embed(texts, options)
        return _vectors(floats.result(), dimensions or self.d_model, is_one)

    async def embed_async(
        self,
        texts: str | Sequence[Prompt],
        *,
        pooling: str = "last",
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> numpy.ndarray:
        """Like `embed`."""
        options = {"pooling": pooling, "dimensions": dimensions, "truncate": truncate}
        floats, is_one = await self._prepared(self._embed, texts, options)
        return _vectors(await _waiter().value(floats.poll), dimensions or self.d_model, is_one)

    def tokenize(self, text: str, *, bos: bool = True, special: bool = False) -> list[int]:
        """The tokens of a text, after the one that begins every prompt, if the model has one, unless `bos` is false.
        If `special`, names of control tokens are control tokens.

        >>> model = Model.open("smollm2")
        >>> model.detokenize(model.tokenize("Hello, world!", bos=False))
        'Hello, world!'
        """
        return self._core.encode(text, bos, special)

    def detokenize(self, tokens: Iterable[int]) -> str:
        """The text of tokens, with the names of control tokens."""
        return self._core.decode(_ids(tokens))

    def logits(self, tokens: Iterable[int]) -> numpy.ndarray:
        """The logits after each token, `[tokens, vocab_size]` in float32: bit for bit the same on every machine. The
        array is read-only.

        >>> Model.open("smollm2").logits([1, 2, 3]).shape
        (3, 49152)
        """
        return _rows(self._core.logits(_ids(tokens)).result(), self.vocab_size)

    async def logits_async(self, tokens: Iterable[int]) -> numpy.ndarray:
        """Like `logits`."""
        return _rows(await _waiter().value(self._core.logits(_ids(tokens)).poll), self.vocab_size)

    # A server

    def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        path: str | os.PathLike[str] | None = None,
        keys: str | os.PathLike[str] | None = None,
        drain: float = 30,
    ) -> Server:
        """Answers HTTP clients in the background, with the APIs of the command `nanoinfer serve`, in the same passes
        as requests of this process. Port 0 is any free one; `path` is that of a Unix socket to use instead; `keys` is
        a file with the keys of clients, without which only this machine may connect.

        >>> import urllib.request
        >>> with Model.open("smollm2").serve(port=0) as server:
        ...     urllib.request.urlopen(server.url + "/health").status
        200
        """
        return Server(self, self._core.listen((host, port), path, keys, drain))

    @property
    def asgi(self) -> Callable[..., Awaitable[None]]:
        """The same as an ASGI application, without a socket: for FastAPI's `mount`, or Ray Serve. Who may send requests
        is up to what is around it."""

        from ._asgi import answer

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await answer(self._core, scope, receive, send)

        return application

    # The model

    @property
    def path(self) -> str:
        """The `.nano` file."""
        return str(self._info["path"])

    @property
    def ctx(self) -> int:
        """Tokens in a context, including the answer."""
        return int(self._info["ctx"])

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return int(self._info["vocab_size"])

    @property
    def d_model(self) -> int:
        """Size of a hidden state."""
        return int(self._info["d_model"])

    @property
    def quant(self) -> str:
        """The precision of the weights."""
        return str(self._info["quant"])

    @property
    def fingerprint(self) -> str:
        """Models with the same one give the same answers."""
        return str(self._info["fingerprint"])

    @property
    def closed(self) -> bool:
        """Whether the model was closed."""
        return self._core.is_closed()

    def close(self) -> None:
        """Ends what runs with an error, and the engine's threads."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<nanoinfer.Model {self._name!r}, {self.quant}, {self.ctx} tokens>"


class Server:
    """A model's HTTP server, until it is closed or left as a context manager."""

    def __init__(self, model: Model, core: _core.Server):
        self._model, self._core = model, core

    @property
    def address(self) -> str | None:
        """Where it listens: an address with its port, or `unix:` and a path; `None` once it is closed."""
        return self._core.address()

    @property
    def url(self) -> str | None:
        """What clients connect to."""
        address = self.address
        return address if address is None or address.startswith("unix:") else f"http://{address}"

    def close(self) -> None:
        """Lets running answers end, and no longer listens."""
        self._core.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _waiter() -> Waiter:
    from ._wait import Waiter  # only where it is needed, since asyncio takes a while to import

    return Waiter.of()


def _rows(data: bytes, width: int) -> numpy.ndarray:
    import numpy  # only where it is needed, since it takes a while

    return numpy.frombuffer(data, dtype=numpy.float32).reshape(-1, width)


def _vectors(data: bytes, width: int, is_one: bool) -> numpy.ndarray:
    rows = _rows(data, width)
    return rows[0] if is_one else rows
