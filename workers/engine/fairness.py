"""Fair degradation: when there is not enough for all, everybody's frame rate is capped at the same height.

Max-min fairness: nobody who asks for less than the cap loses anything, and what that leaves goes to the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

REVIEW_S = 5.0
TOLERATED = 0.02  # of the frames may be late
SHRINKING, RECOVERING = 0.85, 1.03
_BURST = 2.0  # frames that may follow each other after a pause


@dataclass(frozen=True, slots=True)
class Demand:
    """A session that asks for so many frames a second, each of which costs so many seconds."""

    rate: float
    cost: float


def fair_rate(demands: Sequence[Demand], capacity: float) -> float:
    """The cap in frames a second at which all demands together take `capacity` seconds a second; inf if they fit."""
    left, costs = capacity, sum(demand.cost for demand in demands)
    for demand in sorted(demands, key=lambda demand: demand.rate):
        if demand.rate * costs > left:
            return max(0.0, left) / costs
        left -= demand.rate * demand.cost
        costs -= demand.cost
    return math.inf


class Thinning:
    """Leaves out a stream's frames evenly by their own times, so that no more than `rate` a second go on."""

    def __init__(self) -> None:
        self.rate = math.inf
        self._credit, self._last_ms = 1.0, 0

    def admits(self, t_ms: int) -> bool:
        """Whether the frame at session time `t_ms` goes on. Times never fall."""
        if math.isinf(self.rate):
            return True
        self._credit = min(_BURST, self._credit + self.rate * (t_ms - self._last_ms) / 1000)
        self._last_ms = t_ms
        if self._credit < 1.0 - 1e-9:
            return False
        self._credit -= 1.0
        return True


class Turns:
    """Whose frame is next where there is not time for all: start-time fair queueing (Goyal, Vin and Cheng 1996).

    Each frame taken puts its session's next turn one further; who asks for less than its share waits for one frame of
    each of the others at most, and who was away comes back at the present turn.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._next: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    def of(self, session: object) -> float:
        """The turn of the session's next frame; the lowest goes first."""
        return max(self._now, self._next.get(session, 0.0))

    def took(self, sessions: Sequence[object]) -> None:
        """A frame of each was taken."""
        turns = [self.of(session) for session in sessions]
        self._next.update({session: turn + 1 for session, turn in zip(sessions, turns, strict=True)})
        self._now = min(turns, default=self._now)


class Governor:
    """Watches what live sessions ask for, and caps their frame rates where it is more than there is time for."""

    def __init__(self, capacity: float) -> None:
        """`capacity`: seconds of frames' work in a second."""
        self._capacity = capacity
        self._offered: dict[str, int] = {}
        self._since: float | None = None
        self._late = 0
        self._share = 1.0

    def offered(self, session_id: str) -> None:
        """A session has come with a frame."""
        self._offered[session_id] = self._offered.get(session_id, 0) + 1

    def late(self, frames: int) -> None:
        """Frames were lost because they waited too long: costs are told too low, or answers take more than a part."""
        self._late += frames

    def review(self, now: float, costs: Mapping[str, float]) -> Mapping[str, float]:
        """Caps in frames a second from now on (inf: none), every `REVIEW_S` seconds; nothing in between.

        `costs`: what a frame of each session that may be capped costs, in seconds. The capacity that is reckoned with
        shrinks while frames come too late, and recovers slowly.
        """
        if self._since is None:
            self._since = now
        elapsed = now - self._since
        if elapsed < REVIEW_S:
            return {}
        demands = {name: Demand(self._offered.get(name, 0) / elapsed, cost) for name, cost in costs.items()}
        hurried = self._late > TOLERATED * sum(self._offered.values())
        self._share = self._share * SHRINKING if hurried else min(1.0, self._share * RECOVERING)
        self._offered.clear()
        self._since, self._late = now, 0
        rate = fair_rate(list(demands.values()), self._capacity * self._share)
        return {name: rate if demand.rate > rate else math.inf for name, demand in demands.items()}
