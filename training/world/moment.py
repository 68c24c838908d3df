"""What is true at one moment of a script, as far as somebody could know who sees a picture only now and then."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.world.script import BLINK, CELL, GROWTH, SIDE, Actor, Event, Script

RECENT = 30.0  # how far back questions about the past go, in seconds
COVERED = 0.3  # an actor this much hidden behind others is not asked about


@dataclass(frozen=True)
class Moment:
    """A script at `time`, watched since `since` with a picture each `step` seconds."""

    script: Script
    time: float
    since: float = 0.0
    step: float = 1.0

    @property
    def settled(self) -> float:
        """Since when things must have been as they are for the newest picture to show it."""
        return self.time - self.step - 0.3

    @cached_property
    def visible(self) -> list[Actor]:
        """Actors of which anything can be seen lately."""
        return [a for a in self.script.actors if a.enters[0] < self.time and a.leaves[1] > self.settled]

    @cached_property
    def plain(self) -> list[Actor]:
        """Actors in full, steady view: there since `settled`, not blinking or growing, hardly covered."""
        return [actor for actor in self.visible if self._plain(actor)]

    @cached_property
    def singles(self) -> list[Actor]:
        """Sprites and shapes in plain view that are the only ones of their kind."""
        return [actor for actor in self.plain if named(actor)]

    @cached_property
    def card(self) -> Actor | None:
        """The card in plain view, if there is one."""
        return next((a for a in self.plain if a.thing.family == "card" and self.resting(a)), None)

    @cached_property
    def group(self) -> list[Actor]:
        """All members of the group that is in plain view; empty if there is none or one of them is hidden."""
        members = [actor for actor in self.visible if actor.group is not None]
        seen = all(any(actor is other for other in self.plain) for actor in members)
        return members if seen and len({actor.group for actor in members}) == 1 else []

    def resting(self, actor: Actor) -> bool:
        """Whether it has stayed in its place since `settled`."""
        x, y = actor.centre(np.array([self.settled - 0.2, self.time]))
        return bool(abs(x[1] - x[0]) + abs(y[1] - y[0]) < 1.0)

    def heading(self, actor: Actor) -> str | None:
        """left, right, up or down, if it has moved that way for at least two pictures until now and is well in view."""
        start = self.time - max(2.2, 2.2 * self.step)
        x, y = actor.centre(np.linspace(start, self.time, 4))
        steps_x, steps_y = np.diff(x), np.diff(y)
        half_in = (actor.enters[0] + actor.enters[1]) / 2
        if start < max(half_in, self.since) or self.time > actor.leaves[0] or self._covered(actor, self.time):
            return None
        far = 5.0 * min(1.0, self.step)
        for name, along, aside, sign in (
            ("left", steps_x, steps_y, -1), ("right", steps_x, steps_y, 1),
            ("up", steps_y, steps_x, -1), ("down", steps_y, steps_x, 1),
        ):  # fmt: skip
            if (sign * along > far).all() and np.abs(aside).max() < 2.0:
                return name
        return None

    def cell(self, actor: Actor) -> int | None:
        """The field of the picture, 0 to 8, that its centre is clearly in."""
        x, y = (float(values[0]) for values in actor.centre(np.array([self.time])))
        shift_x, shift_y = (float(values[0]) for values in self.script.camera.offset(np.array([self.time])))
        x, y = x + shift_x, y + shift_y
        clear = all(abs(value - line) > 9 for value in (x, y) for line in (CELL, 2 * CELL))
        inside = 0 <= x < SIDE and 0 <= y < SIDE
        return int(y // CELL) * 3 + int(x // CELL) if clear and inside else None

    def alone(self, actor: Actor) -> bool:
        """Whether nothing else comes near the field that it is in."""
        x, y = (float(values[0]) for values in actor.centre(np.array([self.time])))
        for other in self.visible:
            if other is actor:
                continue
            ox, oy = other.centre(np.linspace(self.settled, self.time, 3))
            if ((np.abs(ox - x) < 50) & (np.abs(oy - y) < 50)).any():
                return False
        return True

    def seen(self, actor: Actor) -> bool:
        """Whether it was in the picture for long enough, while somebody watched, to be noticed."""
        return min(actor.leaves[0], self.time) - max(actor.enters[1], self.since) > 1.3 * self.step

    def arrivals(self) -> list[Actor]:
        """Named actors that came lately, and were seen to come, in order of time."""
        early = max(self.since + self.step, self.time - RECENT)
        came = [
            a for a in self.script.actors
            if named(a) and a.enters[0] > early and a.enters[1] <= self.settled and self.seen(a)
        ]  # fmt: skip
        return sorted(came, key=lambda actor: actor.enters[1])

    def departures(self) -> list[Actor]:
        """Named actors that left lately after having been seen, and have not come back."""
        early = max(self.since + 1.3 * self.step, self.time - RECENT)
        return [
            a for a in self.script.actors
            if named(a) and early < a.leaves[0] and a.leaves[1] < self.settled and self.seen(a)
            and self.lacking(a.thing.name)
        ]  # fmt: skip

    def lacking(self, name: str) -> bool:
        """Whether nothing of this name is to be seen now, nor was just now."""
        start = self.settled - self.step
        return all(a.absent(start, self.time) for a in self.script.actors if a.thing.name == name)

    def last_change(self) -> Event | None:
        """The newest event, if it is over, stands clearly apart from the one before it, and was seen to happen."""
        past = [event for event in self.script.events if event.start <= self.time]
        if not past or past[-1].start < self.since + 1.3 * self.step or past[-1].end > self.settled:
            return None
        apart = all(event.end < past[-1].start - 1.2 * self.step for event in past[:-1])
        return past[-1] if apart and past[-1].end > self.time - 15.0 else None

    def _plain(self, actor: Actor) -> bool:
        growing = actor.growth is not None and self.settled < actor.growth[0] + GROWTH and actor.growth[0] < self.time
        blinking = any(self.settled - BLINK < blink < self.time for blink in actor.blinks)
        if growing or blinking or not actor.present(self.settled, self.time):
            return False
        return not any(self._covered(actor, time) for time in (self.time, (self.time + self.settled) / 2, self.settled))

    def _covered(self, actor: Actor, time: float) -> bool:
        box = _box(actor, time)
        area = (box[2] - box[0]) * (box[3] - box[1])
        hidden = sum(_overlap(box, _box(other, time)) for other in self._in_front(actor))
        return hidden > COVERED * area

    def _in_front(self, actor: Actor) -> Iterator[Actor]:
        return (other for other in self.visible if other.depth > actor.depth)


def named(actor: Actor) -> bool:
    """Whether people can speak of it as "the" something: a sprite or shape that is the only one of its kind."""
    return actor.group is None and actor.thing.family != "card"


def _box(actor: Actor, time: float) -> tuple[float, float, float, float]:
    x, y = (float(values[0]) for values in actor.centre(np.array([time])))
    grown = actor.growth is not None and time > actor.growth[0]
    half = 0.45 * actor.size * (actor.growth[1] if actor.growth is not None and grown else 1.0)
    high = 0.25 * actor.size if actor.thing.family == "card" else half
    return x - half, y - high, x + half, y + high


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
