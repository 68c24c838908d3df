"""Frame rate by capture time: which pictures of a track are sampled."""

from __future__ import annotations

TOLERANCE = 0.1  # of a period: a camera that sends exactly at the session's rate, with jitter, loses no picture


class Sampler:
    """Keeps about ``fps`` pictures per second of one track's session time.

    The due time advances by whole periods, so a source at 30 pictures a second is sampled at exactly ``fps`` on
    average; after a gap the next picture is due at once.
    """

    def __init__(self, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self._period_ms = 1000.0 / fps
        self._due_ms: float | None = None
        self._previous_due_ms: float | None = None

    def keep(self, t_ms: float) -> bool:
        """Whether the picture at session time ``t_ms`` is sampled. Times must not decrease."""
        if self._due_ms is not None and t_ms < self._due_ms - TOLERANCE * self._period_ms:
            return False
        self._previous_due_ms = self._due_ms
        late = self._due_ms is None or t_ms >= self._due_ms + self._period_ms
        self._due_ms = (t_ms if late or self._due_ms is None else self._due_ms) + self._period_ms
        return True

    def restart(self) -> None:
        """The next picture is due: it is another camera's, or the first after a pause."""
        self._due_ms = self._previous_due_ms = None

    def forgive(self) -> None:
        """Undo the last ``keep``: its picture turned out to be undecodable, so the next one is due in its place."""
        self._due_ms = self._previous_due_ms
