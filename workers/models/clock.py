"""The position clock: one per session, an immutable value, the only place where positions are made.

A position is a triple (time, height, width) as in M-RoPE (Qwen2-VL, arXiv:2409.12191). Text advances all three axes
together; the grids of a segment share a base on the height and width axes and advance in time with the session's time.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

SEGMENT_LIMIT_MS = 30_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of grids that share a position base.

    `first_ms` and `last_ms` are session times and stay None until the first grid; `last_t` is the newest grid's
    position on the time axis.
    """

    base: int
    height: int
    width: int
    first_ms: int | None = None
    last_ms: int | None = None
    last_t: int | None = None

    def admits(self, time_ms: int, height: int, width: int) -> bool:
        """Whether a grid of this shape at this session time still belongs to the segment."""
        young = self.first_ms is None or time_ms - self.first_ms < SEGMENT_LIMIT_MS
        return young and (height, width) == (self.height, self.width)


@dataclass(frozen=True, slots=True)
class Clock:
    """The next unused position of a session or branch, and its open segment if there is one.

    `rate` is positions per second of session time (`tokens_per_second` of the vision configuration).
    """

    rate: float
    next: int = 0
    segment: Segment | None = None

    def text(self, count: int) -> tuple[Positions, "Clock"]:
        """Positions [3, count] of text tokens, and the clock after them."""
        after = self.next + count
        positions = np.empty((3, count), dtype=np.int64)
        positions[:] = self.next if count == 1 else np.arange(self.next, after)
        return positions, Clock(self.rate, after, self.segment)

    def opened(self, height: int, width: int) -> "Clock":
        """The clock with a new segment of height x width grids, its base being the next position."""
        return replace(self, segment=Segment(self.next, height, width))

    def closed(self) -> "Clock":
        """The clock without an open segment."""
        return replace(self, segment=None)

    def grid(self, time_ms: int) -> tuple[Positions, "Clock"]:
        """Positions [3, height * width], row major, of one grid at session time `time_ms`, and the clock after it.

        The grid belongs to the open segment; ValueError if none is open.
        """
        after = self.passing(time_ms)
        segment = after.segment
        if segment is None or segment.last_t is None:
            raise ValueError("a grid needs an open segment")
        positions = np.empty((3, segment.height, segment.width), dtype=np.int64)
        positions[0] = segment.last_t
        positions[1] = np.arange(segment.base, segment.base + segment.height)[:, None]
        positions[2] = np.arange(segment.base, segment.base + segment.width)
        return positions.reshape(3, -1), after

    def passing(self, time_ms: int) -> "Clock":
        """The clock after a grid at session time `time_ms`, written or not, where a segment is open."""
        segment = self.segment
        if segment is None:
            return self
        first_ms = time_ms if segment.first_ms is None else segment.first_ms
        elapsed = math.floor(self.rate * (time_ms - first_ms) / 1000 + 0.5)
        t = max(segment.base + elapsed, segment.base if segment.last_t is None else segment.last_t)
        newest = Segment(segment.base, segment.height, segment.width, first_ms, time_ms, t)
        after = 1 + max(t, segment.base + max(segment.height, segment.width) - 1)
        return Clock(self.rate, after, newest)

    def following(self, trunk: "Clock") -> "Clock":
        """A live branch's clock brought level with its trunk's: its next token comes after all that was seen."""
        return self if self.next >= trunk.next else replace(self, next=trunk.next)

    def shifted(self, delta: int) -> "Clock":
        """The clock after its newest segment, and whatever follows that, moved by `delta` positions (re-anchoring)."""
        segment = self.segment
        if segment is not None:
            last_t = None if segment.last_t is None else segment.last_t + delta
            segment = replace(segment, base=segment.base + delta, last_t=last_t)
        return replace(self, next=self.next + delta, segment=segment)
