"""Whether a worker has more to do than it can: then it takes no further session until it has caught up."""

from __future__ import annotations

from collections.abc import Iterable

BEATS = 5  # in a row that live pictures were lost for want of time: less may be one long step


class Load:
    """Looked at once in each beat."""

    def __init__(self) -> None:
        self._dropped = 0
        self._beats = 0

    def look(self, dropped: Iterable[int]) -> None:
        """``dropped``: of each session owned, live pictures lost so far because they waited too long."""
        now = sum(dropped)
        self._beats = self._beats + 1 if now > self._dropped else 0
        self._dropped = now

    @property
    def behind(self) -> bool:
        return self._beats >= BEATS
