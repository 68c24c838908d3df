"""Makes up scripts from a seed: things come, go, replace one another, cross, move, grow and change colour."""

import math
from random import Random

from training.world.backgrounds import COUNT as BACKGROUNDS
from training.world.catalogue import COLOURS, Thing, of_family
from training.world.script import BLINK, CELL, GROWTH, SIDE, Actor, Camera, Deed, Event, Script, Style

CELLS = 9
CROWD = 6
FORGET = 40.0  # seconds after which a thing that left may come again
_STILL: tuple[Style, ...] = ("pop", "fade", "grow")
_STYLES: tuple[Style, ...] = (*_STILL, "slide")
DEEDS: dict[str, float] = {
    "come": 3.0, "leave": 3.0, "replace": 3.0, "cross": 1.8, "move": 1.0, "recolour": 1.2, "grow": 0.6,
    "blink": 0.3, "gather": 1.2, "disperse": 1.2, "show": 1.0, "hide": 1.0,
}  # fmt: skip


def direct(seed: int, seconds: float, gap: float = 2.4, cuts: tuple[float, ...] = ()) -> Script:
    """The script of a video: something changes every `gap` to 8 seconds, and a new scene begins at each of `cuts`."""
    return _Director(seed, seconds, gap, cuts).script()


class _Director:
    """One script in the making. A cell is one of the nine fields of the picture, a home for one thing."""

    def __init__(self, seed: int, seconds: float, gap: float, cuts: tuple[float, ...]) -> None:
        self._seed, self._seconds, self._gap = seed, seconds, gap
        self._rng = Random(seed)
        self._cuts = [cut for cut in cuts if 0 < cut < seconds]
        self._actors: list[Actor] = []
        self._events: list[Event] = []
        self._homes: dict[int, Actor] = {}
        self._free_from = [-math.inf] * CELLS
        self._blocked: dict[str, float] = {}
        self._crossing_until = -math.inf
        self._depth = 0

    def script(self) -> Script:
        rng = self._rng
        grounds = [(0.0, rng.randrange(BACKGROUNDS))]
        self._settle(-10.0)
        now = rng.uniform(0.6, self._gap + 1.0)
        while now < self._seconds:
            if self._cuts and now > self._cuts[0] - self._gap:
                cut = self._cuts.pop(0)
                self._clear(cut)
                grounds.append((cut, rng.randrange(BACKGROUNDS)))
                self._settle(cut)
                now = cut
            else:
                self._act(now)
            now += rng.uniform(self._gap, max(self._gap + 1.0, min(8.0, 2.2 * self._gap)))
        self._events.sort(key=lambda event: event.start)
        camera = self._camera()
        return Script(self._seed, self._seconds, tuple(self._actors), tuple(self._events), tuple(grounds), camera)

    def _camera(self) -> Camera:
        rng = self._rng
        shaky = rng.random() < 0.3
        return Camera(
            shake=rng.uniform(0.5, 2.5) if shaky else 0.0,
            drift=(rng.uniform(-3, 3), rng.uniform(-3, 3)) if rng.random() < 0.4 else (0.0, 0.0),
            gain=rng.uniform(0.8, 1.12),
            swing=rng.uniform(0.0, 0.1) if rng.random() < 0.4 else 0.0,
            phase=rng.uniform(0, 2 * math.pi),
            noise=rng.uniform(0, 0.03) if rng.random() < 0.4 else 0.0,
        )

    def _settle(self, time: float) -> None:
        """The first things of a scene, there from its start."""
        for _ in range(self._rng.randint(2, 4)):
            self._enter(time, self._choose(time), "pop")
        if self._rng.random() < 0.3:
            self._gather(time, "pop")
        if self._rng.random() < 0.3:
            self._enter(time, self._rng.choice(of_family("card")), "pop")

    def _clear(self, time: float) -> None:
        """A cut: everything is gone at once."""
        self._events = [event for event in self._events if event.start < time] + [Event("cut", time, time)]
        for actor in self._actors:
            if actor.leaves[1] > time:
                actor.leaves, actor.departure = (min(time, actor.leaves[0]), time), "pop"
                self._blocked[actor.thing.name] = time + FORGET
        self._homes.clear()
        self._free_from = [time] * CELLS
        self._crossing_until = time

    def _act(self, now: float) -> None:
        """One change, of a kind that is possible now."""
        names = list(DEEDS)
        for _ in range(20):
            deed = self._rng.choices(names, [DEEDS[name] for name in names])[0]
            if getattr(self, f"_{deed}")(now):
                return

    def _come(self, now: float) -> bool:
        if len(self._homes) >= CROWD:
            return False
        style = self._rng.choice(_STYLES)
        actor = self._enter(now, self._choose(now), style)
        return actor is not None and self._note("came", actor.enters, actor)

    def _leave(self, now: float) -> bool:
        actor = self._pick(now)
        if actor is None or len(self._homes) < 3:
            return False
        self._depart(actor, now, self._rng.choice(_STYLES))
        return self._note("left", actor.leaves, actor)

    def _replace(self, now: float) -> bool:
        old = self._pick(now)
        if old is None or old.cell is None:
            return False
        cell = old.cell
        self._depart(old, now, "pop")
        self._free_from[cell] = now
        new = self._enter(now + 0.02, self._choose(now), "pop", cell)
        if new is not None:
            new.followed = old
        return self._note("replaced", (now, now + 0.1), new)

    def _cross(self, now: float) -> bool:
        """Something passes through the picture, from edge to edge, in front of things or behind them."""
        rng = self._rng
        if self._crossing_until > now:
            return False
        size = rng.uniform(46, 60)
        speed = rng.uniform(24, 46) * min(1.0, 2.4 / self._gap)
        lane = rng.uniform(32, SIDE - 32)
        start, end = -size / 2, SIDE + size / 2
        if rng.random() < 0.5:
            start, end = end, start
        across, down = ([start, end], [lane, lane])
        if rng.random() < 0.5:
            across, down = down, across
        last = now + abs(end - start) / speed
        actor = Actor(self._choose(now), size, ([now, last], across, down), (now, now + size / speed))
        actor.leaves = (last - size / speed, last)
        self._appear(actor, rng.choice((-1, 1)) * 1000.0)
        self._crossing_until = last + 1.0
        self._blocked[actor.thing.name] = last + FORGET
        self._note("left", actor.leaves, actor)
        return self._note("came", actor.enters, actor)

    def _move(self, now: float) -> bool:
        """A thing goes over to a free neighbouring cell."""
        actor = self._pick(now)
        if actor is None or actor.cell is None:
            return False
        row, column = divmod(actor.cell, 3)
        steps = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        near = [r * 3 + c for r, c in steps if 0 <= r < 3 and 0 <= c < 3]
        free = [cell for cell in near if cell not in self._homes and self._free_from[cell] <= now]
        if not free:
            return False
        cell = self._rng.choice(free)
        old_cell, times, across, down = actor.cell, *actor.path
        x, y = across[-1], down[-1]
        new_x, new_y = (x, self._home(cell)[1]) if cell % 3 == old_cell % 3 else (self._home(cell)[0], y)
        end = now + math.hypot(new_x - x, new_y - y) / (self._rng.uniform(17, 26) * min(1.0, 2.4 / self._gap))
        actor.path = ([*times, now, end], [*across, x, new_x], [*down, y, new_y])
        del self._homes[old_cell]
        self._free_from[old_cell] = end + 0.2
        self._homes[cell], actor.cell, actor.followed = actor, cell, None
        return self._note("moved", (now, end), actor)

    def _recolour(self, now: float) -> bool:
        actor = self._pick(now)
        if actor is None or not actor.colours:
            return False
        colour = self._rng.choice([name for name in COLOURS if name != actor.colours[-1][1]])
        actor.colours.append((now, colour))
        return self._note("recoloured", (now, now), actor)

    def _grow(self, now: float) -> bool:
        actor = self._pick(now)
        if actor is None or actor.growth is not None or actor.size > 58:
            return False
        actor.growth = (now, self._rng.uniform(1.3, 1.45))
        return self._note("grew", (now, now + GROWTH), actor)

    def _blink(self, now: float) -> bool:
        actor = self._pick(now)
        if actor is None:
            return False
        actor.blinks.append(now + BLINK)
        return True

    def _gather(self, now: float, style: Style | None = None) -> bool:
        """Two to five of a kind come together, or one more of them than there is room for is left out."""
        free = self._free_cells(now)
        if len(free) < 2 or any(actor.group is not None for actor in self._homes.values()):
            return False
        kinds = [
            thing
            for thing in of_family("sprite")
            if thing.countable and self._blocked.get(thing.name, -math.inf) <= now
        ]
        thing, count = self._rng.choice(kinds), self._rng.randint(2, min(5, len(free)))
        look: Style = self._rng.choice(_STILL) if style is None else style
        group = len(self._actors)
        for cell in free[:count]:
            if (actor := self._enter(now, thing, look, cell)) is not None:
                actor.group = group
        first = self._actors[group]
        return self._note("came", first.enters, first)

    def _disperse(self, now: float) -> bool:
        group = [actor for actor in self._homes.values() if actor.group is not None and actor.enters[1] + 2.0 < now]
        if not group:
            return False
        style = self._rng.choice(_STILL)
        for actor in group:
            self._depart(actor, now, style)
        return self._note("left", group[0].leaves, group[0])

    def _show(self, now: float) -> bool:
        if any(actor.thing.family == "card" for actor in self._homes.values()):
            return False
        actor = self._enter(now, self._rng.choice(of_family("card")), self._rng.choice(("pop", "fade")))
        return actor is not None and self._note("came", actor.enters, actor)

    def _hide(self, now: float) -> bool:
        cards = [a for a in self._homes.values() if a.thing.family == "card" and a.enters[1] + 3.0 < now]
        if not cards:
            return False
        self._depart(cards[0], now, self._rng.choice(("pop", "fade")))
        return self._note("left", cards[0].leaves, cards[0])

    def _note(self, deed: Deed, span: tuple[float, float], actor: Actor | None) -> bool:
        self._events.append(Event(deed, span[0], span[1], actor))
        return True

    def _choose(self, now: float) -> Thing:
        """A sprite, or now and then a shape, that has not been on for a while."""
        while True:
            thing = self._rng.choice(of_family("shape" if self._rng.random() < 0.2 else "sprite"))
            if self._blocked.get(thing.name, -math.inf) <= now:
                return thing

    def _pick(self, now: float) -> Actor | None:
        """A single sprite or shape at rest in its cell that has been there for a little while."""
        rest = [
            actor
            for actor in self._homes.values()
            if actor.group is None and actor.thing.family != "card" and actor.enters[1] + self._gap < now
            and actor.path[0][-1] + 1.0 < now and actor.leaves[0] == math.inf
        ]  # fmt: skip
        return self._rng.choice(rest) if rest else None

    def _free_cells(self, now: float) -> list[int]:
        free = [cell for cell in range(CELLS) if cell not in self._homes and self._free_from[cell] <= now]
        self._rng.shuffle(free)
        return free

    def _home(self, cell: int) -> tuple[float, float]:
        row, column = divmod(cell, 3)
        return (column + 0.5) * CELL + self._rng.uniform(-8, 8), (row + 0.5) * CELL + self._rng.uniform(-8, 8)

    def _enter(self, now: float, thing: Thing, style: Style, cell: int | None = None) -> Actor | None:
        """Puts a thing into a free cell; None if there is none."""
        free = [cell] if cell is not None else self._free_cells(now)
        if not free:
            return None
        x, y = self._home(free[0])
        lasting = {"pop": 0.05, "fade": 0.8, "grow": 0.8, "slide": 1.3}[style]
        card = thing.family == "card"
        size = self._rng.uniform(84, 94) if card else self._rng.uniform(46, 68)
        if card:
            x = min(max(x, size / 2), SIDE - size / 2)
        actor = Actor(thing, size, ([now], [x], [y]), (now, now + lasting), arrival=style, cell=free[0])
        if style == "slide":
            away_x, away_y = self._outside(x, y, size)
            actor.path = ([now, now + lasting], [away_x, x], [away_y, y])
        if thing.family == "shape":
            actor.colours.append((-math.inf, self._rng.choice(list(COLOURS))))
        self._appear(actor, 0.0)
        self._homes[free[0]] = actor
        self._blocked[thing.name] = math.inf
        return actor

    def _appear(self, actor: Actor, depth: float) -> None:
        self._depth += 1
        actor.depth, actor.tilt = depth + self._depth, self._rng.uniform(-0.15, 0.15)
        if actor.thing.family == "shape" and not actor.colours:
            actor.colours.append((-math.inf, self._rng.choice(list(COLOURS))))
        self._actors.append(actor)

    def _depart(self, actor: Actor, now: float, style: Style) -> None:
        lasting = {"pop": 0.02, "fade": 0.8, "grow": 0.8, "slide": 1.3}[style]
        actor.leaves, actor.departure = (now, now + lasting), style
        if style == "slide":
            times, across, down = actor.path
            size = actor.size * (actor.growth[1] if actor.growth else 1.0)
            away_x, away_y = self._outside(across[-1], down[-1], size)
            actor.path = ([*times, now, now + lasting], [*across, across[-1], away_x], [*down, down[-1], away_y])
        self._blocked[actor.thing.name] = now + FORGET
        if actor.cell is not None:
            self._homes.pop(actor.cell, None)
            self._free_from[actor.cell] = now + lasting + 0.1

    def _outside(self, x: float, y: float, size: float) -> tuple[float, float]:
        """The nearest point beyond the picture's edge from which nothing of a thing of this size is seen."""
        ways = [
            (x, (-size / 2, y)),
            (SIDE - x, (SIDE + size / 2, y)),
            (y, (x, -size / 2)),
            (SIDE - y, (x, SIDE + size / 2)),
        ]
        return min(ways)[1]
