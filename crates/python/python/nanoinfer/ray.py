"""Replicas on Ray: a server of several machines with Ray Serve, and the rows of a dataset with Ray Data.

    from ray import serve
    from nanoinfer.ray import application

    serve.run(application("/models/model.nano", num_replicas=2, num_cpus=8))

On one machine, `nanoinfer serve` does the same with less: all requests share its passes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections import Counter, OrderedDict
from typing import Any, AsyncIterator

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ._model import Model
from ._wait import Waiter

Headers = list[tuple[bytes, bytes]]

# Bytes of text in a block, about as many as 64 tokens have.
_BLOCK = 256
# Blocks whose replica a router remembers.
_REMEMBERED = 1 << 18
# Headers that are of a connection.
_HOP = {b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"}


class Replica:
    """One engine. `options` are those of `Model.open`."""

    def __init__(self, model: str, **options: Any):
        self._model = Model.open(model, **options)

    async def call(self, method: str, target: str, headers: Headers, body: bytes, blocks: list[bytes]):
        """Answers an HTTP request: first status and headers, then the parts of the body. `blocks` are for the router."""
        exchange = self._model._core.call(method, target, headers, body)
        waiter = Waiter.of()
        yield await waiter.value(exchange.poll_head)
        while (part := await waiter.part(exchange)) is not None:
            yield part

    async def check_health(self) -> None:
        """Fails if the engine does not work."""
        async for status, _ in self.call("GET", "/health", [], b"", []):
            if status != 200:
                raise RuntimeError(f"the engine does not work: /health has status {status}")
            return


class Ingress:
    """Passes requests on to replicas. If a replica dies, the next one goes on where it stopped: the same request has the
    same answer everywhere, so that a client does not notice."""

    def __init__(self, replicas: DeploymentHandle, retries: int = 3):
        self._replicas, self._retries = replicas.options(stream=True), retries

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        fields = _object(body)
        resumable = fields.get("stream") is True and not request.url.path.startswith("/api/")
        if resumable and fields.get("seed") is None:
            # To go on elsewhere, the draws have to be the same.
            fields["seed"] = random.getrandbits(32)
            body = json.dumps(fields).encode()
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = [(name, value) for name, value in request.headers.raw if name not in _HOP]
        parts = self._answer(request.method, target, headers, body, blocks(fields))
        try:
            status, headers = await anext(parts)
        except RayActorError:
            message = "the replicas that were asked have died; try again"
            return JSONResponse({"error": {"message": message, "type": "server_error"}}, 503)
        response = StreamingResponse(parts, status)
        response.raw_headers = [(name, value) for name, value in headers if name not in _HOP]
        return response

    async def _answer(self, method: str, target: str, headers: Headers, body: bytes, found: list[bytes]):
        """Status and headers, then parts."""
        sent = _Sent()
        for attempt in range(self._retries + 1):
            call = self._replicas.call.remote(method, target, headers + sent.resume(), body, found)
            try:
                async for item in sent.parts(call):
                    yield item
                return
            except RayActorError:
                if attempt == self._retries or not sent.may_go_on():
                    raise


class _Sent:
    """What a client has received of an answer: of a stream, whole events, beginning with the first that has an id."""

    def __init__(self) -> None:
        self._head: Any = None
        self._last, self._held, self._rest = b"", b"", b""

    def may_go_on(self) -> bool:
        """Whether nothing was sent, or another replica can go on after it."""
        return not self._head or _kind(self._head) == b"text/event-stream"

    def resume(self) -> Headers:
        """Headers that ask for what follows."""
        self._held, self._rest = b"", b""
        if not self._last:
            return []
        model = [(name, value) for name, value in self._head[1] if name == b"x-system-fingerprint"]
        return [(b"last-event-id", self._last), *model]

    async def parts(self, call: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What is to be sent of a response."""
        head = await anext(call)
        kind = _kind(head)
        if self._head and (head[0] != 200 or kind != b"text/event-stream"):
            raise RuntimeError(f"the stream cannot be resumed: status {head[0]}")
        if kind == b"application/json":
            # Nothing is sent before it is whole, so that another replica can begin anew.
            whole = [part async for part in call]
            yield head
            for part in whole:
                yield part
            return
        if not self._head:
            self._head = head
            yield head
        async for part in call:
            if ready := self._add(part) if kind == b"text/event-stream" else part:
                yield ready
        if self._held or self._rest:
            yield self._held + self._rest

    def _add(self, part: bytes) -> bytes:
        *events, self._rest = (self._rest + part).split(b"\n\n")
        ready = b""
        for event in (event + b"\n\n" for event in events):
            if found := re.search(rb"^id: *(\d+)$", event, re.M):
                self._last = found[1]
            if self._last or event.startswith(b":"):
                ready, self._held = ready + self._held + event, b""
            else:
                self._held += event
        return ready


def _kind(head: Any) -> bytes:
    return dict(head[1]).get(b"content-type", b"").partition(b";")[0]


class PrefixRouter(RequestRouter):
    """Prefers the replica that has computed the longest beginning of a conversation, unless it has `spill` more requests
    to answer than the least busy one."""

    def initialize_state(self, spill: int = 4, **_: Any) -> None:
        self._spill = spill
        self._owners: OrderedDict[bytes, ReplicaID] = OrderedDict()
        self._running: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks replicas."""
        load = lambda replica: (self._running[replica.replica_id], random.random())
        ranked = sorted(candidate_replicas, key=load)
        owners = (self._owners.get(block) for block in reversed(_blocks_of(pending_request)))
        owner = next((owner for owner in owners if owner), None)
        own = next((replica for replica in ranked if replica.replica_id == owner), None)
        if own and self._running[own.replica_id] <= self._running[ranked[0].replica_id] + self._spill:
            ranked.remove(own)
            ranked.insert(0, own)
        return [[replica] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Remembers who computes a beginning."""
        self._running[replica_id] += 1
        for block in _blocks_of(pending_request):
            self._owners[block] = replica_id
            self._owners.move_to_end(block)
        while len(self._owners) > _REMEMBERED:
            self._owners.popitem(last=False)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Counts what runs."""
        self._running[replica_id] -= 1


def _blocks_of(request: PendingRequest | None) -> list[bytes]:
    return request.args[-1] if request and len(request.args) == 5 else []


def blocks(fields: dict[str, Any]) -> list[bytes]:
    """A hash for each block of a request's prompt and all before it: requests that begin alike have the same first
    ones."""
    if isinstance(messages := fields.get("messages", fields.get("input")), list):
        system = json.dumps([fields.get("system"), fields.get("instructions"), fields.get("tools")])
        text = system + "\0".join(json.dumps(message, sort_keys=True) for message in messages)
    else:
        text = json.dumps(fields.get("prompt", messages))
    data, found, digest = text.encode(), [], b""
    for start in range(0, len(data) - _BLOCK + 1, _BLOCK):
        digest = hashlib.blake2b(digest + data[start : start + _BLOCK], digest_size=16).digest()
        found.append(digest)
    return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def application(
    model: str, *, num_replicas: Any = 1, num_cpus: float = 1, drain: float = 300, router: Any = PrefixRouter, **options: Any
) -> Any:
    """A Ray Serve application that answers as `nanoinfer serve` does.

    - `model`: a path or a hub id, as for `Model.open`, which also has the `options`
    - `num_replicas`: a number, or `"auto"` to add replicas when each has more than 16 requests
    - `num_cpus`: of a replica; its engine has as many threads. A replica with all cores of a machine is faster than
      several on it
    - `drain`: seconds for running answers when a replica is removed
    - `router`: the class that chooses replicas; None for Ray's own
    """
    sequences = options.setdefault("sequences", 64)
    scaling = {"autoscaling_config": {"target_ongoing_requests": 16, "downscale_delay_s": 600, "max_replicas": 8}}
    replica = serve.deployment(
        Replica,
        name="nanoinfer",
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=4 * sequences,
        graceful_shutdown_timeout_s=drain,
        **({"request_router_config": RequestRouterConfig(request_router_class=router)} if router else {}),
        **(scaling if num_replicas == "auto" else {"num_replicas": num_replicas}),
    )
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=4096,
        graceful_shutdown_timeout_s=drain,
    )
    options.setdefault("threads", max(1, int(num_cpus)))
    return ingress.bind(replica.bind(model, **options))


def build(args: dict[str, Any]) -> Any:
    """The same for configuration files, whose `args` are those of `application`."""
    return application(**args)


class Generate:
    """For Ray Data: answers the rows of a column in the same passes, and adds a column with the answers.

        dataset.map_batches(
            Generate,
            fn_constructor_kwargs={"model": "model.nano", "prompt": "question", "answer": "reply", "max_tokens": 100},
            concurrency=2, num_cpus=8, batch_size=64,
        )

    A prompt is a text, or with `chat` a message. The column `seed`, if it is named, has the seed of each row: whoever
    computes a row, and however often, its answer is the same.
    """

    def __init__(
        self, model: str, prompt: str, answer: str = "answer", seed: str | None = None, chat: bool = False,
        open: dict[str, Any] | None = None, **options: Any,
    ):
        self._model = Model.open(model, **(open or {}))
        self._prompt, self._column, self._seed, self._chat, self._options = prompt, answer, seed, chat, options

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        ask = self._model.chat_async if self._chat else self._model.generate_async
        prompts = [str(prompt) for prompt in batch[self._prompt]]
        seeds = [{"seed": int(seed)} for seed in batch[self._seed]] if self._seed else [{}] * len(prompts)
        answers = await asyncio.gather(*(ask(p, **{**self._options, **s}) for p, s in zip(prompts, seeds)))
        return {**batch, self._column: [answer.text for answer in answers]}
