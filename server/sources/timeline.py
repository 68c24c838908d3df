"""Media times of one connection to a source, mapped onto session time, and how late its media come."""

from __future__ import annotations

from dataclasses import dataclass

REORDERING_S = 2.0  # pictures come in decoding order: a time stamp may go back by so much
JUMP_S = 10.0
CLOCK_DRIFT = 200e-6  # of a camera's clock against ours, at most


@dataclass(frozen=True)
class Placed:
    """``jump_ms``: the source's clock jumped by so much: corrected."""

    t_ms: int
    jump_ms: int = 0


class Timeline:
    """Session time goes on by the source's own clock from where the connection began.

    Times never go back within a track. Seconds are of any steady clock.

    Args:
        start_ms: session time of the connection's first unit.
    """

    def __init__(self, start_ms: float) -> None:
        self._start_ms = start_ms
        self._began: float | None = None
        self._zeros: dict[str, float] = {}  # session time of each track's media time 0
        self._last: dict[str, tuple[float, float, int]] = {}  # media time, arrival, session time
        self._least_delay: float | None = None
        self._measured = 0.0
        self.lag_s = 0.0

    def place(self, track: str, media_us: int, now: float) -> Placed:
        """Session time of a unit that was captured at ``media_us`` and came at ``now``."""
        media = media_us / 1e6
        if self._began is None:
            self._began, self._first_zero = now, self._start_ms - 1000 * media
        zero = self._zeros.setdefault(track, self._first_zero)
        jump_ms = 0.0
        if self._jumped(track, media, now):
            arrived_ms = self._start_ms + 1000 * (now - self._began)
            jump_ms = zero + 1000 * media - arrived_ms
            self._zeros[track] = zero = arrived_ms - 1000 * media
            self._least_delay = None
        self._measure(now - media, now)
        floor = self._last[track][2] + 1 if track in self._last else round(self._start_ms)
        t_ms = max(round(zero + 1000 * media), floor)
        self._last[track] = (media, now, t_ms)
        return Placed(t_ms, round(jump_ms))

    def _jumped(self, track: str, media: float, now: float) -> bool:
        if track not in self._last:
            return False
        before, came, _ = self._last[track]
        return not -REORDERING_S <= media - before <= now - came + JUMP_S

    def _measure(self, delay: float, now: float) -> None:
        """Lag is what a unit's delay has beyond the least one seen, which may have grown by the clocks' drift."""
        least = delay if self._least_delay is None else self._least_delay + CLOCK_DRIFT * (now - self._measured)
        self._least_delay, self._measured = min(least, delay), now
        self.lag_s = delay - self._least_delay
