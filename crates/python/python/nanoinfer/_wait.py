"""Waiting in asyncio: the engine's threads make a descriptor readable, and the event loop looks what there is."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Callable

from . import _core

# Seconds between two looks where event loops cannot wait for a descriptor.
_INTERVAL = 0.005


class Waiter:
    """Waits for results in an event loop."""

    _known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Waiter] = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.waker = _core.Waker()
        self._waiting: set[asyncio.Future[None]] = set()
        self._descriptor = self.waker.fileno()
        if self._descriptor is not None:
            try:
                loop.add_reader(self._descriptor, self._wake)
            except NotImplementedError:
                self._descriptor = None

    @classmethod
    def of(cls) -> Waiter:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if (waiter := cls._known.get(loop)) is None:
            waiter = cls._known[loop] = cls(loop)
        return waiter

    def _wake(self) -> None:
        self.waker.take()
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _sleep(self) -> None:
        if self._descriptor is None:
            await asyncio.sleep(_INTERVAL)
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    async def update(self, answers: _core.Answers) -> tuple[Any, ...] | None:
        """The next update of an answer; `None` after the last."""
        while True:
            ready, update = answers.poll(self.waker)
            if ready:
                return update
            await self._sleep()

    async def value(self, poll: Callable[[_core.Waker], Any]) -> Any:
        """What `poll` returns once that is not `None`."""
        while (value := poll(self.waker)) is None:
            await self._sleep()
        return value

    async def part(self, exchange: _core.Exchange) -> bytes | None:
        """The next part of a response; `None` after the last."""
        while True:
            ready, part = exchange.poll(self.waker)
            if ready:
                return part
            await self._sleep()
