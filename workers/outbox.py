"""What a session has to say, numbered and appended to its output stream in order, many entries at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from protocol.errors import BusUnavailable, LeaseLost
from protocol.messages import Output, Turn

BATCH = 128
PAUSES = (0.05, 0.1, 0.2, 0.5)


class OutputStream(Protocol):
    """Where outputs are appended: ``protocol.outputs.Outputs``."""

    async def append(
        self, session_id: str, epoch: int, entries: Sequence[tuple[int, Output]], turns: Mapping[int, Turn]
    ) -> None: ...


class Outbox:
    """A bounded queue in front of one session's output stream. ``put`` never waits; ``run`` writes.

    While the bus is away entries wait here. Where more than ``limit`` would wait the session counts as lost: its lease
    ran out long before.
    """

    def __init__(self, outputs: OutputStream, session_id: str, epoch: int, *, limit: int = 8192) -> None:
        self._outputs = outputs
        self._session_id = session_id
        self._epoch = epoch
        self._limit = limit
        self._waiting: deque[tuple[int, Output]] = deque()
        self._turns: dict[int, Turn] = {}
        self._next = 1
        self._overflowed = False
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def put(self, output: Output, turn: Turn | None = None) -> None:
        """Gives the output its number, from 1 on: ``<epoch>-0`` is what an owner begins with. ``turn``: what the
        session remembers of it.
        """
        if len(self._waiting) >= self._limit:
            self._overflowed = True
        else:
            self._waiting.append((self._next, output))
            if turn is not None:
                self._turns[self._next] = turn
            self._next += 1
            self._empty.clear()
        self._news.set()

    async def run(self) -> None:
        """Writes until cancelled. Raises LeaseLost once this owner may not speak for the session any more."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                if self._overflowed:
                    raise LeaseLost("the session's outputs could not be written for too long")
                batch = [self._waiting[n] for n in range(min(BATCH, len(self._waiting)))]
                await self._append(batch)
                for n, _ in batch:
                    self._waiting.popleft()
                    self._turns.pop(n, None)
            self._empty.set()

    async def drained(self) -> None:
        """Returns once everything put so far has been written; ``run`` must be running."""
        await self._empty.wait()

    async def _append(self, batch: Sequence[tuple[int, Output]]) -> None:
        attempt = 0
        while True:
            try:
                return await self._outputs.append(self._session_id, self._epoch, batch, self._turns)
            except BusUnavailable:
                if self._overflowed:
                    raise LeaseLost("the session's outputs could not be written for too long") from None
                await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1
