"""A background event loop, and calls into it from code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Portal:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="longlook-client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` to its end; an interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        end = object()
        try:
            while (item := self.call(_next(items, end))) is not end:
                yield cast(T, item)
        finally:
            if isinstance(items, AsyncGenerator):
                self.call(items.aclose())

    def hold(self, manager: AbstractAsyncContextManager[T]) -> Held[T]:
        """Enters ``manager`` in one task that also leaves it, as its own tasks demand."""
        return Held(self, self._loop, manager)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Held(Generic[T]):
    """An entered context manager; ``value`` is what entering it gave."""

    def __init__(
        self, portal: Portal, loop: asyncio.AbstractEventLoop, manager: AbstractAsyncContextManager[T]
    ) -> None:
        self._portal = portal
        self._leave = asyncio.Event()
        self._entered: Future[T] = Future()
        self._done = asyncio.run_coroutine_threadsafe(self._stay(manager), loop)
        self.value = self._entered.result()

    async def _stay(self, manager: AbstractAsyncContextManager[T]) -> None:
        try:
            async with manager as value:
                self._entered.set_result(value)
                await self._leave.wait()
        except BaseException as error:
            if self._entered.done():
                raise
            self._entered.set_exception(error)

    def release(self) -> None:
        self._portal.call(self._set())
        self._done.result()

    async def _set(self) -> None:
        self._leave.set()


async def _next(items: AsyncIterator[T], end: object) -> T | object:
    return await anext(items, end)
