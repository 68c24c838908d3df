"""Session time: capture times of any client clock mapped onto the session's own milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

SAME_CLOCK_MS = 2_000.0  # a returning client whose clock fits this well never stopped it
LIVE_JUMP_MS = 60_000.0
COMPLETE_JUMP_MS = 86_400_000.0
GAP_MS = 10_000.0


class BackwardTime(ValueError):
    """A chunk is older than one of its track that came before it."""


@dataclass(frozen=True)
class Stamp:
    """``gap_ms``: media were absent for so long. ``jump_ms``: the client's clock jumped by so much: corrected."""

    t_ms: int
    gap_ms: int = 0
    jump_ms: int = 0


class SessionClock:
    """One session's time. The first chunk is 0; every track of one publisher shares its capture clock.

    Arrival (``now``, seconds) never stamps a chunk whose capture time makes sense: it tells only how far a clock that
    changed or jumped must have gone on meanwhile.

    Args:
        lossless: capture times may run ahead of arrival by up to a day, as they do when a recording is sent.
        newest_ms: session time reached before this gateway had the session, -1 for none.
        newest_at: when that was, in the seconds of ``now``.
        origin_us: capture clock at session time 0 as far as it is known.
    """

    def __init__(
        self, *, lossless: bool, newest_ms: int = -1, newest_at: float = 0.0, origin_us: int | None = None
    ) -> None:
        self._lossless = lossless
        self._jump_ms = COMPLETE_JUMP_MS if lossless else LIVE_JUMP_MS
        self._newest_ms = newest_ms
        self._newest_at = newest_at
        self._base_ms = None if origin_us is None else origin_us / 1000  # capture time of session time 0
        self._fresh = True  # the next capture time may be of another clock
        self._tracks: dict[int, int] = {}

    @property
    def newest_ms(self) -> int:
        """Session time of the newest chunk, -1 before the first."""
        return self._newest_ms

    @property
    def origin_us(self) -> int | None:
        """Capture clock at session time 0, None before the first capture time."""
        return None if self._base_ms is None else round(self._base_ms * 1000)

    def new_publisher(self) -> None:
        """The next chunk is another connection's: its clock may be another one."""
        self._fresh = True

    def capture(self, track: int, capture_us: int, now: float) -> Stamp:
        """Stamp a chunk captured at ``capture_us`` of the publisher's clock.

        Raises:
            BackwardTime: the track has a newer chunk already; nothing changed.
        """
        capture_ms = capture_us / 1000
        expected = self.expected(now)
        if self._base_ms is None:
            self._base_ms = capture_ms - expected
        t_ms = capture_ms - self._base_ms
        latest = expected + (SAME_CLOCK_MS if self._fresh and not self._lossless else self._jump_ms)
        jump = 0.0
        if t_ms > latest or (self._fresh and t_ms < self._newest_ms - SAME_CLOCK_MS):
            jump = 0.0 if self._fresh else t_ms - expected
            self._base_ms += t_ms - expected
            t_ms = expected
        self._fresh = False
        stamp = self._accept(track, max(round(t_ms), 0), now)
        return Stamp(stamp.t_ms, stamp.gap_ms, round(jump))

    def place(self, track: int, t_ms: int, now: float) -> Stamp:
        """Stamp a chunk whose session time is given outright."""
        return self._accept(track, t_ms, now)

    def advance(self, t_ms: int, now: float) -> None:
        """Media that were placed before as a whole, a file, have come to ``t_ms``."""
        if t_ms >= self._newest_ms:
            self._newest_ms, self._newest_at = t_ms, now

    def expected(self, now: float) -> float:
        """Session time of a chunk that comes without one: a live session goes on with arrival, a recording not."""
        if self._newest_ms < 0:
            return 0.0
        return self._newest_ms + (0.0 if self._lossless else max(now - self._newest_at, 0.0) * 1000)

    def _accept(self, track: int, t_ms: int, now: float) -> Stamp:
        if t_ms < self._tracks.get(track, 0):
            raise BackwardTime(f"track {track} is already past {t_ms} ms")
        since = t_ms - self._newest_ms
        gap = since if self._newest_ms >= 0 and since > GAP_MS else 0
        self._tracks[track] = t_ms
        self.advance(t_ms, now)
        return Stamp(t_ms, gap)
