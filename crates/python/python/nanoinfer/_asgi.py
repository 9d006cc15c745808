"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
from typing import Any

from . import _core
from ._wait import Waiter


async def answer(model: _core.Model, scope: Any, receive: Any, send: Any) -> None:
    """Answers a request. A client that goes away cancels it."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] != "http":
        raise ValueError(f"nanoinfer answers http, not {scope['type']}")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope.get("raw_path") or scope["path"].encode()
    target = path.removeprefix(scope.get("root_path", "").encode()) or b"/"
    if query := scope.get("query_string"):
        target += b"?" + query
    exchange = model.call(scope["method"], target.decode("latin-1"), list(scope["headers"]), body)
    sending = asyncio.ensure_future(_send(exchange, send))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in sending, gone:
            task.cancel()


async def _send(exchange: _core.Exchange, send: Any) -> None:
    waiter = Waiter.of()
    status, headers = await waiter.value(exchange.poll_head)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    while (part := await waiter.part(exchange)) is not None:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
