"""The test suite `first-light`: which videos are shown and what is asked about them, from one seed."""

from dataclasses import dataclass
from itertools import cycle, islice
from random import Random

from training.world.director import direct
from training.world.moment import Moment
from training.world.questions import KINDS, Kind, Question, ask
from training.world.script import Script

CLIP_SECONDS = 45.0
PER_CLIP = 5
_FROM = 16.0  # questions about the past need one
_TRIES = 80


@dataclass(frozen=True, slots=True)
class Clip:
    """A video, and questions about it in order of time."""

    script: Script
    questions: tuple[Question, ...]


def clips(seed: int, count: int) -> list[Clip]:
    """Videos of 45 seconds with five questions each; kinds take turns, and "is there" is true as often as not."""
    rng = Random(seed)
    kinds, sides = cycle(KINDS), cycle(("yes", "no"))
    made = []
    for _ in range(count):
        script = direct(rng.getrandbits(60), CLIP_SECONDS)
        asked = [_question(kind, script, (_FROM, CLIP_SECONDS - 0.2), rng, sides) for kind in islice(kinds, PER_CLIP)]
        made.append(_clip(script, asked))
    return made


def long_clip(seed: int, questions: int, age: float, every: float) -> Clip:
    """One long video with a question about `every` so many seconds, none before `age` seconds have passed."""
    rng = Random(seed)
    kinds, sides = cycle(rng.sample(KINDS, len(KINDS))), cycle(("yes", "no"))
    script = direct(rng.getrandbits(60), age + questions * every + 10.0)
    spans = [(age + number * every, age + number * every + 10.0) for number in range(questions)]
    asked = [_question(kind, script, span, rng, sides) for kind, span in zip(kinds, spans, strict=False)]
    return _clip(script, asked)


def _clip(script: Script, asked: list[Question]) -> Clip:
    return Clip(script, tuple(sorted(asked, key=lambda question: question.time)))


def _question(kind: Kind, script: Script, span: tuple[float, float], rng: Random, sides: "cycle[str]") -> Question:
    """A question of this kind somewhere in the span, or else of the kind that comes after it."""
    start = KINDS.index(kind)
    for other in (*KINDS[start:], *KINDS[:start]):
        side = next(sides) if other == "absent" else None
        for _ in range(_TRIES):
            question = ask(other, Moment(script, round(rng.uniform(*span), 2)), rng)
            if question is not None and side in (None, question.value):
                return question
    raise RuntimeError(f"nothing can be asked about seed {script.seed} between {span[0]:g} and {span[1]:g} s")
