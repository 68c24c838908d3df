"""What a bad network does to a stream of bytes, as arithmetic: no sockets and no clock in here."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults of one direction. The default is a perfect wire. ValueError when a number makes no sense.

    ``latency_s`` is added to every piece, ``jitter_s`` moves it by as much in either direction; pieces never overtake
    each other, as in TCP. ``slice_bytes`` cuts what was read into pieces of 1 to so many bytes. ``reset_rate`` is the
    chance of each read that the connection is reset in its place; ``cut_after`` resets it after that many bytes.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = math.inf
    slice_bytes: int | None = None
    reset_rate: float = 0.0
    cut_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.jitter_s <= self.latency_s < math.inf:
            raise ValueError("jitter lies between zero and the latency")
        if not self.bytes_per_s > 0:
            raise ValueError("a wire carries more than zero bytes a second; pause() stops it")
        if self.slice_bytes is not None and self.slice_bytes < 1:
            raise ValueError("a slice has at least one byte")
        if not 0 <= self.reset_rate <= 1:
            raise ValueError("a rate lies between 0 and 1")
        if self.cut_after is not None and self.cut_after < 0:
            raise ValueError("bytes before the cut cannot be negative")


@dataclass(frozen=True)
class Piece:
    """Bytes to hand on at ``due`` seconds of the caller's clock. ``breaks``: then the connection is reset."""

    data: bytes
    due: float
    breaks: bool = False


class Shaper:
    """Shapes one direction of one connection. The same seed and the same reads give the same pieces."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)
        self._carried = 0
        self._idle_at = -math.inf  # when the wire has carried all that was put on it
        self._last_due = -math.inf

    def shape(self, data: bytes, faults: Faults, now: float) -> list[Piece]:
        """The pieces that ``data``, read at ``now``, becomes, in order; after one that breaks there is none."""
        if self._random.random() < faults.reset_rate:
            return [Piece(b"", self._due(0, faults, now), breaks=True)]
        cut = faults.cut_after is not None and self._carried + len(data) > faults.cut_after
        if cut:
            assert faults.cut_after is not None
            data = data[: max(0, faults.cut_after - self._carried)]
        self._carried += len(data)
        pieces = [Piece(part, self._due(len(part), faults, now)) for part in self._slices(data, faults.slice_bytes)]
        if cut:
            pieces.append(Piece(b"", self._due(0, faults, now), breaks=True))
        return pieces

    def _slices(self, data: bytes, most: int | None) -> list[bytes]:
        if most is None:
            return [data] if data else []
        parts: list[bytes] = []
        start = 0
        while start < len(data):
            size = self._random.randint(1, most)
            parts.append(data[start : start + size])
            start += size
        return parts

    def _due(self, size: int, faults: Faults, now: float) -> float:
        self._idle_at = max(self._idle_at, now) + size / faults.bytes_per_s
        delay = faults.latency_s + self._random.uniform(-faults.jitter_s, faults.jitter_s)
        self._last_due = max(self._last_due, self._idle_at + delay)
        return self._last_due
