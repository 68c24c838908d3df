"""What is true of a script, as data: events, what is there when, and questions with their values."""

from collections.abc import Iterable
from dataclasses import asdict
from random import Random
from typing import Any

import numpy as np

from training.world.moment import Moment
from training.world.questions import KINDS, Kind, Question, ask, values
from training.world.script import Actor, Script


def questions(
    script: Script, rng: Random, kinds: Iterable[Kind], since: float = 0.0, step: float = 1.0
) -> list[Question]:
    """One question of each of `kinds`, in order of time, asked late enough for the past to have happened.

    A kind that the script never allows is left out.
    """
    asked = []
    for kind in kinds:
        for _ in range(60):
            early = min(script.seconds / 3, 14.0)
            question = ask(kind, Moment(script, round(rng.uniform(early, script.seconds - 0.1), 2), since, step), rng)
            if question is not None:
                asked.append(question)
                break
    return sorted(asked, key=lambda question: question.time)


def truth(script: Script, rng: Random) -> dict[str, Any]:
    """Everything about a script that a test needs, ready for JSON."""
    return {
        "seed": script.seed,
        "seconds": script.seconds,
        "events": [
            {
                "deed": e.deed,
                "start": round(e.start, 3),
                "end": round(e.end, 3),
                "thing": e.actor.thing.name if e.actor else None,
            }
            for e in script.events
            if e.start >= 0
        ],
        "objects": [_life(actor, script.seconds) for actor in script.actors],
        "questions": [asdict(question) for question in questions(script, rng, KINDS)],
        "values": {kind: list(values(kind)) for kind in KINDS},
    }


def _life(actor: Actor, seconds: float) -> dict[str, Any]:
    """An actor's appearance and its whereabouts, second by second, while it is to be seen."""
    start, end = max(0.0, actor.enters[0]), min(seconds, actor.leaves[1])
    times = np.arange(np.ceil(start), end)
    x, y = actor.centre(times)
    return {
        "thing": actor.thing.name,
        "family": actor.thing.family,
        "colours": [[max(0.0, since), colour] for since, colour in actor.colours],
        "from": round(start, 3),
        "until": round(end, 3),
        "places": [[float(t), round(float(a), 1), round(float(b), 1)] for t, a, b in zip(times, x, y, strict=True)],
    }
