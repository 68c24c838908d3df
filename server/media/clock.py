"""Session time: capture times of any client clock mapped onto the session's own milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

SAME_CLOCK_MS = 2_000.0  # a clock that fits this well is one that was known before
LIVE_JUMP_MS = 60_000.0
COMPLETE_JUMP_MS = 86_400_000.0
GAP_MS = 10_000.0
BACKWARD_S = 10.0  # a live track whose times stay back for so long has another clock


class BackwardTime(ValueError):
    """A chunk is older than one of its track that came before it."""


@dataclass(frozen=True)
class Stamp:
    """``gap_ms``: the track was absent for so long. ``jump_ms``: its clock jumped by so much: corrected."""

    t_ms: int
    gap_ms: int = 0
    jump_ms: int = 0


class SessionClock:
    """One session's time. The first chunk is 0; the tracks of one publisher share its capture clock until one jumps.

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
        self._bases: dict[int, float] = {}  # the same for tracks that have a clock of their own
        self._fresh = True  # the next capture time may be of another clock
        self._tracks: dict[int, int] = {}
        self._refused_since: dict[int, float] = {}

    @property
    def newest_ms(self) -> int:
        """Session time of the newest chunk, -1 before the first."""
        return self._newest_ms

    @property
    def newest_at(self) -> float:
        """When that was, in the seconds of ``now``."""
        return self._newest_at

    @property
    def origin_us(self) -> int | None:
        """Capture clock at session time 0, None before the first capture time."""
        return None if self._base_ms is None else round(self._base_ms * 1000)

    def new_publisher(self) -> None:
        """The next chunk is another connection's: its clock may be another one."""
        self._fresh = True

    def capture(self, track: int, capture_us: int, now: float, *, resumes: bool = False) -> Stamp:
        """Stamp a chunk captured at ``capture_us`` of the publisher's clock.

        Args:
            resumes: it is not the first that its client ever sent: a connection that begins with it goes on where
                another one broke off, however far back that was.

        Raises:
            BackwardTime: the track has a newer chunk already; nothing changed.
        """
        capture_ms = capture_us / 1000
        expected = self.expected(now)
        if self._base_ms is None:
            self._base_ms = capture_ms - expected
        told = self._fresh or track not in self._tracks  # what was never heard before cannot have jumped
        if self._fresh and not self._continues(capture_ms - self._base_of(track), expected, resumes=resumes):
            self._base_ms = capture_ms - expected
            self._bases.clear()
        self._fresh = False
        stated = capture_ms - self._base_of(track)
        t_ms = self._corrected(track, capture_ms, expected, now, resumes=resumes)
        stamp = self._accept(track, max(round(t_ms), 0), now)
        return Stamp(stamp.t_ms, stamp.gap_ms, 0 if told else round(stated - t_ms))

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

    def _base_of(self, track: int) -> float:
        return self._bases.get(track, self._base_ms or 0.0)

    def _continues(self, t_ms: float, expected: float, *, resumes: bool) -> bool:
        """Whether a connection's first chunk comes from the clock of the connection before."""
        earliest = 0.0 if resumes else self._newest_ms - SAME_CLOCK_MS
        latest = expected + (self._jump_ms if self._lossless else SAME_CLOCK_MS)
        return earliest <= t_ms <= latest

    def _corrected(self, track: int, capture_ms: float, expected: float, now: float, *, resumes: bool) -> float:
        """Session time by the track's clock or, where that cannot be, by another known one, or by a new one."""
        t_ms = capture_ms - self._base_of(track)
        newest = self._tracks.get(track)
        earliest = 0.0 if resumes else expected - self._jump_ms  # of a track that is new here
        far = t_ms > expected + self._jump_ms or (newest is None and t_ms < earliest)
        if not far and (newest is None or max(round(t_ms), 0) >= newest):
            self._refused_since.pop(track, None)
            return t_ms
        for base in [self._base_ms or 0.0, *self._bases.values()]:
            other = capture_ms - base
            if abs(other - expected) <= SAME_CLOCK_MS and other >= (newest or 0):
                break
        else:
            if not far and not self._stays_back(track, now):
                return t_ms
            base = capture_ms - expected
        self._bases[track] = base
        self._refused_since.pop(track, None)
        return capture_ms - base

    def _stays_back(self, track: int, now: float) -> bool:
        return not self._lossless and now - self._refused_since.setdefault(track, now) >= BACKWARD_S

    def _accept(self, track: int, t_ms: int, now: float) -> Stamp:
        before = self._tracks.get(track)
        if t_ms < (before or 0):
            raise BackwardTime(f"track {track} is already past {t_ms} ms")
        since = 0 if before is None else t_ms - before
        self._tracks[track] = t_ms
        self.advance(t_ms, now)
        return Stamp(t_ms, since if since > GAP_MS else 0)
