"""The test suite `first-light`: which videos are shown and what is asked about them, from one seed."""

from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random

from training.world.director import direct
from training.world.moment import Moment
from training.world.questions import KINDS, Kind, Question, ask
from training.world.script import Script

CLIP_SECONDS = 45.0
PACE = 4.0  # the least seconds between two changes; the most is 8
PER_CLIP = 5
_FROM = 16.0  # questions about the past need one
_TRIES = 60
_SCRIPTS = 80


@dataclass(frozen=True, slots=True)
class Clip:
    """A video, and questions about it in order of time."""

    script: Script
    questions: tuple[Question, ...]


def clips(seed: int, count: int) -> list[Clip]:
    """Videos of 45 seconds with five questions each; kinds take turns, and "is there" is true as often as not."""
    rng = Random(seed)
    kinds, sides = cycle(KINDS), cycle(("yes", "no"))
    return [_clip(rng, list(islice(kinds, PER_CLIP)), sides) for _ in range(count)]


def long_clip(seed: int, questions: int, age: float, every: float) -> Clip:
    """One long video with a question about `every` so many seconds, none before `age` seconds have passed.

    Each time the kind that was asked least, of those that can be asked, has its turn.
    """
    rng = Random(seed)
    sides = cycle(("yes", "no"))
    script = direct(rng.getrandbits(60), age + questions * every + 10.0, PACE)
    asked: list[Question] = []
    for number in range(questions):
        span = (age + number * every, age + number * every + 10.0)
        often = Counter(question.kind for question in asked)
        turns = sorted(rng.sample(KINDS, len(KINDS)), key=lambda kind: often[kind])
        found = (_question(kind, script, span, rng, sides) for kind in turns)
        asked += islice((question for question in found if question is not None), 1)
    return Clip(script, tuple(sorted(asked, key=lambda question: question.time)))


def _clip(rng: Random, kinds: list[Kind], sides: "cycle[str]") -> Clip:
    """The first video of some that lets every one of `kinds` be asked."""
    best: list[Question] = []
    for _ in range(_SCRIPTS):
        script = direct(rng.getrandbits(60), CLIP_SECONDS, PACE)
        tried = [_question(kind, script, (_FROM, CLIP_SECONDS - 0.2), rng, sides) for kind in kinds]
        best = [question for question in tried if question is not None]
        if len(best) == len(kinds):
            break
    return Clip(script, tuple(sorted(best, key=lambda question: question.time)))


def _question(
    kind: Kind, script: Script, span: tuple[float, float], rng: Random, sides: "cycle[str]"
) -> Question | None:
    """A question of this kind somewhere in the span, if one is found."""
    side = next(sides) if kind == "absent" else None
    for _ in range(_TRIES):
        question = ask(kind, Moment(script, round(rng.uniform(*span), 2)), rng)
        if question is not None and side in (None, question.value):
            return question
    return None
