"""The bounded queue between a session's reader and its decoder: lossless, but for pictures that newer ones replace."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Entry(Generic[T]):
    """``replaceable``: a newer entry of the same track may take its place while it waits."""

    item: T
    track: int = 0
    size: int = 0
    replaceable: bool = False


class Inbox(Generic[T]):
    """Entries leave in the order in which they came. ``room`` waits while ``depth`` or ``max_bytes`` is reached.

    Waiting and putting are two steps so that whoever gives up waiting has put nothing, and left no trace of it.
    """

    def __init__(self, depth: int, max_bytes: int) -> None:
        self._entries: deque[Entry[T]] = deque()
        self._changed = asyncio.Event()
        self._max_depth = depth
        self._max_bytes = max_bytes
        self._bytes = 0
        self.replaced = 0

    @property
    def depth(self) -> int:
        return len(self._entries)

    async def room(self, size: int) -> None:
        """Wait until an entry of ``size`` bytes can be put, which is so until the caller waits again."""
        while not self._fits(size):
            await self._changed.wait()

    def put(self, entry: Entry[T]) -> T | None:
        """Returns the item that ``entry`` replaced, if any. Call ``room`` before."""
        old = self._stale(entry) if entry.replaceable else None
        if old is not None:
            self._remove(old)
            self.replaced += 1
        self._entries.append(entry)
        self._bytes += entry.size
        self._tell()
        return None if old is None else old.item

    async def get(self) -> T:
        while not self._entries:
            await self._changed.wait()
        entry = self._entries[0]
        self._remove(entry)
        self._tell()
        return entry.item

    def pin(self) -> None:
        """What waits now must come out: a question was asked about it."""
        for entry in self._entries:
            entry.replaceable = False

    def clear(self) -> list[T]:
        """Take out everything that waits."""
        items = [entry.item for entry in self._entries]
        self._entries.clear()
        self._bytes = 0
        self._tell()
        return items

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _fits(self, size: int) -> bool:
        return not self._entries or (len(self._entries) < self._max_depth and self._bytes + size <= self._max_bytes)

    def _stale(self, newer: Entry[T]) -> Entry[T] | None:
        return next((e for e in self._entries if e.replaceable and e.track == newer.track), None)

    def _remove(self, entry: Entry[T]) -> None:
        self._entries.remove(entry)
        self._bytes -= entry.size
