"""Questions about a moment of a script, each with its true answer: eleven kinds, as far as the moment allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from training.world.catalogue import COLOURS, NUMBERS, WORDS, Thing, of_family, with_article
from training.world.moment import Moment, named
from training.world.script import Actor
from training.world.wordings import AGES, ASKED_PLACES, CHANGES, COUNTS, DIRECTIONS, PLACES, QUESTIONS

Kind = Literal[
    "what", "where", "colour", "how_many", "direction", "read", "first", "before", "changed", "when_left", "absent"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
PRESENT: tuple[Kind, ...] = ("what", "where", "colour", "how_many", "direction", "read")
BACKWARD: tuple[Kind, ...] = ("first", "before", "changed", "when_left")


@dataclass(frozen=True, slots=True)
class Question:
    """A question asked at `time`; `answer` is a sentence that holds `value` and no other value of its kind."""

    kind: Kind
    time: float
    text: str
    answer: str
    value: str


def ask(kind: Kind, moment: Moment, rng: Random) -> Question | None:
    """A question of this kind at this moment; None if there is nothing of the kind to ask."""
    asked = _ASKERS[kind](moment, rng)
    if asked is None:
        return None
    wording, about, answer, value = asked
    text = rng.choice(QUESTIONS[wording]).format(x=about)
    if rng.random() < 0.1:
        text = text.rstrip("?.").lower()
    return Question(kind, moment.time, text, answer, value)


def values(kind: Kind) -> tuple[str, ...]:
    """Everything that can be the value of a question of this kind."""
    fixed: dict[Kind, Sequence[str]] = {
        "where": PLACES, "colour": tuple(COLOURS), "how_many": COUNTS, "direction": DIRECTIONS, "read": WORDS + NUMBERS,
        "when_left": tuple(AGES), "absent": ("yes", "no"),
    }  # fmt: skip
    names = (thing.name for thing in (*of_family("sprite"), *of_family("shape")))
    return tuple(fixed[kind]) if kind in fixed else tuple(names)


Asked = tuple[str, str, str, str] | None  # wording, what it is about, answer, value


def _what(moment: Moment, rng: Random) -> Asked:
    movers = [actor for actor in moment.visible if not moment.resting(actor)]
    if len(movers) == 1 and rng.random() < 0.4 and named(movers[0]) and moment.heading(movers[0]):
        return "moving", "", f"The {movers[0].thing.name} is moving.", movers[0].thing.name
    here = [a for a in moment.plain if a.thing.family != "card" and moment.resting(a) and moment.alone(a)]
    placed = [(actor, cell) for actor in here if (cell := moment.cell(actor)) is not None]
    if not placed:
        return None
    actor, cell = rng.choice(placed)
    answer = f"There is {_indefinite(actor.thing)}."
    return "what", rng.choice(ASKED_PLACES[cell]), answer, actor.thing.name


def _where(moment: Moment, rng: Random) -> Asked:
    resting = [actor for actor in moment.singles if moment.resting(actor)]
    placed = [(actor, cell) for actor in resting if (cell := moment.cell(actor)) is not None]
    if not placed:
        return None
    actor, cell = rng.choice(placed)
    return "where", actor.thing.name, f"The {actor.thing.name} is in the {PLACES[cell]}.", PLACES[cell]


def _colour(moment: Moment, rng: Random) -> Asked:
    worn = [(a, a.colour(moment.settled), a.colour(moment.time)) for a in moment.singles if a.colours]
    steady = [(actor.thing.name, now) for actor, then, now in worn if now is not None and then == now]
    if not steady:
        return None
    name, colour = rng.choice(steady)
    return "colour", name, f"The {name} is {colour}.", colour


def _how_many(moment: Moment, rng: Random) -> Asked:
    if moment.group:
        thing, count = moment.group[0].thing, len(moment.group)
    else:
        lone = [actor.thing for actor in moment.singles if actor.thing.countable and actor.thing.family == "sprite"]
        if not lone or rng.random() < 0.6:
            return None
        thing, count = rng.choice(lone), 1
    noun = thing.name if count == 1 else thing.plural
    return (
        "how_many",
        thing.plural,
        f"There {'is' if count == 1 else 'are'} {COUNTS[count - 1]} {noun}.",
        COUNTS[count - 1],
    )


def _direction(moment: Moment, rng: Random) -> Asked:
    going = [(a.thing.name, moment.heading(a)) for a in moment.visible if named(a)]
    known = [(name, way) for name, way in going if way is not None]
    if not known:
        return None
    name, way = rng.choice(known)
    return "direction", name, f"The {name} is moving {way}.", way


def _read(moment: Moment, rng: Random) -> Asked:
    if moment.card is None:
        return None
    text = moment.card.thing.name
    wording = "read" if rng.random() < 0.8 else ("read_number" if text.isdigit() else "read_word")
    return wording, "", f"It says {text}.", text


def _first(moment: Moment, rng: Random) -> Asked:
    came: list[Actor] = []
    for actor in moment.arrivals():
        if not came or actor.enters[1] - came[-1].enters[1] > 1.7 * moment.step:
            came.append(actor)
    if len({actor.thing.name for actor in came}) < max(2, len(came)):
        return None
    count = min(len(came), 3 if rng.random() < 0.75 else 2)
    chosen = sorted(rng.sample(range(len(came)), count))
    names = [came[number].thing.name for number in chosen]
    shuffled = [f"the {name}" for name in rng.sample(names, count)]
    listed = f"{', '.join(shuffled[:-1])} or {shuffled[-1]}"
    return "first", listed, f"The {names[0]} came first.", names[0]


def _before(moment: Moment, rng: Random) -> Asked:
    early = max(moment.since + 1.3 * moment.step, moment.time - 28.0)
    pairs = [
        (actor.thing.name, actor.followed)
        for actor in moment.singles
        if actor.followed is not None and actor.enters[0] > early and moment.resting(actor)
    ]
    known = [(name, old) for name, old in pairs if moment.seen(old) and named(old)]
    if not known:
        return None
    name, old = rng.choice(known)
    return "before", name, f"Before it there was {_indefinite(old.thing)}.", old.thing.name


def _changed(moment: Moment, rng: Random) -> Asked:
    event = moment.last_change()
    if event is None or event.actor is None or not named(event.actor) or event.deed not in CHANGES:
        return None
    if event.deed == "left" and not moment.lacking(event.actor.thing.name):
        return None
    return "changed", "", f"The {event.actor.thing.name} {CHANGES[event.deed]}.", event.actor.thing.name


def _when_left(moment: Moment, rng: Random) -> Asked:
    gone: dict[str, list[str]] = {}
    for actor in moment.departures():
        ago = moment.time - (actor.leaves[0] + actor.leaves[1]) / 2
        for word, (low, high) in AGES.items():
            if low <= ago <= high:
                gone.setdefault(word, []).append(actor.thing.name)
    if not gone:
        return None
    word = rng.choice(sorted(gone))
    name = rng.choice(gone[word])
    return "when_left", name, f"The {name} left about {word} seconds ago.", word


def _absent(moment: Moment, rng: Random) -> Asked:
    return _there(moment, rng) if rng.random() < 0.5 else _not_there(moment, rng)


def _there(moment: Moment, rng: Random) -> Asked:
    here = [*moment.singles, *moment.group[:1]]
    if not here:
        return None
    actor = rng.choice(here)
    colour = actor.colour(moment.time)
    phrase = actor.thing.indefinite
    if colour is not None and colour == actor.colour(moment.settled) and rng.random() < 0.6:
        phrase = with_article(f"{colour} {actor.thing.name}")
    return "absent", phrase, f"Yes, there is {phrase.removeprefix('any ')}.", "yes"


def _not_there(moment: Moment, rng: Random) -> Asked:
    """Something that is not there: lately gone, of another colour, alike in kind, or anything."""
    phrase = None
    gone, shapes = moment.departures(), [actor for actor in moment.singles if actor.colours]
    lot = rng.random()
    if gone and lot < 0.45:
        phrase = rng.choice(gone).thing.indefinite
    elif shapes and lot < 0.65:
        shape = rng.choice(shapes)
        worn = (shape.colour(moment.time), shape.colour(moment.settled))
        phrase = with_article(f"{rng.choice([name for name in COLOURS if name not in worn])} {shape.thing.name}")
    else:
        thing = _alike(moment, rng) if lot < 0.85 else rng.choice(of_family("sprite"))
        if moment.lacking(thing.name):
            phrase = thing.indefinite
    if phrase is None:
        return None
    bare = phrase.removeprefix("any ").removeprefix("an ").removeprefix("a ")
    return "absent", phrase, f"No, there is no {bare}.", "no"


def _alike(moment: Moment, rng: Random) -> Thing:
    """A sprite that stands next to one in view in the catalogue, whose order is by likeness; or a shape."""
    sprites = of_family("sprite")
    seen = [actor.thing.number for actor in moment.plain if actor.thing.family == "sprite"]
    if not seen or rng.random() < 0.2:
        return rng.choice(of_family("shape"))
    return sprites[(rng.choice(seen) + rng.choice((-3, -2, -1, 1, 2, 3))) % len(sprites)]


def _indefinite(thing: Thing) -> str:
    return thing.indefinite.removeprefix("any ")


_ASKERS: dict[Kind, Callable[[Moment, Random], Asked]] = {
    "what": _what, "where": _where, "colour": _colour, "how_many": _how_many, "direction": _direction, "read": _read,
    "first": _first, "before": _before, "changed": _changed, "when_left": _when_left, "absent": _absent,
}  # fmt: skip
