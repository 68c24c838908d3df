"""How often something happens: for a stream's health, not for decisions."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0
MOST = 1_024  # events that a window remembers


class Rate:
    """Events a second over the last five seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST)

    def tick(self, now: float, count: int = 1) -> None:
        self._times.extend([now] * min(count, MOST))

    def per_second(self, now: float) -> float:
        while self._times and self._times[0] < now - WINDOW_S:
            self._times.popleft()
        return len(self._times) / WINDOW_S
