"""How often something happens: for a stream's health, not for decisions."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0


class Rate:
    """Events a second over the last five seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=1024)

    def tick(self, now: float) -> None:
        self._times.append(now)

    def per_second(self, now: float) -> float:
        while self._times and self._times[0] < now - WINDOW_S:
            self._times.popleft()
        return len(self._times) / WINDOW_S
