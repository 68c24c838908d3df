"""Streams of the synthetic world, ready to be sent, with questions whose true answers are known."""

from __future__ import annotations

import io
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.world.director import direct
from training.world.moment import Moment
from training.world.questions import PRESENT, Question, ask
from training.world.renderer import Renderer
from training.world.suite import PACE
from training.world.video import pictures

_TRIES = 40


@dataclass(frozen=True)
class Clip:
    """One picture a second as JPEG, by how many seconds each arrives late, and questions by the second they come at."""

    pictures: list[bytes]
    jitter: list[float]
    questions: dict[int, Question]


def rendered(seed: int, seconds: int, every: float, offset: float, jitter: float) -> Clip:
    """A clip of one picture a second. The first question comes `offset` seconds after the memory has filled a little.

    Arrivals are late by a normal deviate of `jitter` seconds, cut at three of them; a picture never overtakes another.
    """
    rng = Random(seed)
    script = direct(seed, float(seconds), PACE)
    shown = [_jpeg(picture) for picture in pictures(script, 1.0, Renderer.on(torch.device("cpu")))]
    late = [min(abs(rng.gauss(0, jitter)), 3 * jitter) for _ in shown]
    questions: dict[int, Question] = {}
    due = every + offset
    while due < len(shown) - every:
        second = int(due)
        question = _question(Moment(script, float(second), 0.0, 1.0), rng)
        if question is not None:
            questions[second] = question
        due += every
    return Clip(shown, late, questions)


def _question(moment: Moment, rng: Random) -> Question | None:
    for _ in range(_TRIES):
        question = ask(rng.choice(PRESENT), moment, rng)
        if question is not None:
            return question
    return None


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=90)
    return out.getvalue()
