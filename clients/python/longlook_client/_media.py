"""Chunks on their way out: their numbers, and those to be sent again after a reconnect."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from longlook_client._wire import MAX_SEQUENCE, MAX_TRACK, Codec, pack_chunk

MAX_UNACKNOWLEDGED_CHUNKS = 256
MAX_UNACKNOWLEDGED_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Chunk:
    track: int
    sequence: int
    message: bytes


@dataclass
class MediaStats:
    """What this side sent. ``dropped`` counts live chunks that were offered while there was no connection."""

    sent: int = 0
    resent: int = 0
    dropped: int = 0


class Packer:
    """Numbers and stamps the chunks of a session's tracks."""

    def __init__(self) -> None:
        self._sequences: dict[int, int] = {}

    def pack(self, codec: Codec, track: int, captured: float | None, payload: bytes) -> Chunk:
        if not 0 <= track <= MAX_TRACK:
            raise ValueError(f"track must be 0 to {MAX_TRACK}")
        if not payload:
            raise ValueError("a chunk needs a payload")
        seconds = time.monotonic() if captured is None else captured
        sequence = self._sequences.get(track, 0)
        self._sequences[track] = (sequence + 1) & MAX_SEQUENCE
        return Chunk(track, sequence, pack_chunk(codec, track, sequence, round(seconds * 1e6), payload))


class Unacknowledged:
    """The chunks of a complete session that the server has not yet confirmed: bounded, the producer waits."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._chunks)

    def full(self) -> bool:
        return len(self._chunks) >= MAX_UNACKNOWLEDGED_CHUNKS or self._bytes >= MAX_UNACKNOWLEDGED_BYTES

    async def moved(self) -> None:
        """Returns at the next acknowledgement."""
        self._moved.clear()
        await self._moved.wait()

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk.message)

    def acknowledge(self, track: int, sequence: int) -> None:
        kept = deque(c for c in self._chunks if c.track != track or c.sequence > sequence)
        self._chunks, self._bytes = kept, sum(len(c.message) for c in kept)
        self.wake()

    def wake(self) -> None:
        self._moved.set()

    def snapshot(self) -> list[Chunk]:
        return list(self._chunks)
