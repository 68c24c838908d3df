"""How long to wait before the next try."""

from __future__ import annotations

import random

LONGEST_DOUBLING = 16


class Backoff:
    """Doubles from ``first_s`` to ``most_s``; each wait is between half of that and all of it, so that many who lost
    the same server do not come back together.
    """

    def __init__(self, first_s: float, most_s: float, chance: random.Random | None = None) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance or random.SystemRandom()
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait now."""
        whole = min(self._first_s * 2.0**self._failures, self._most_s)
        self._failures = min(self._failures + 1, LONGEST_DOUBLING)
        return whole * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It went well for a while."""
        self._failures = 0
