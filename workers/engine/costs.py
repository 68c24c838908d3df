"""What a step costs, told from what is in it: a linear model, fitted to measured steps, from which budgets follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from workers.engine.scheduler import StepLimits

Floats = NDArray[np.float64]

FILLING = 384  # tokens: below, a GPU multiplies by the decoder's matrices no faster than it reads them
_HELD = 0.95  # of the steps keep to the time that limits are made for
_TRIMMED = 0.9  # of the measured steps decide; the rest had something else happen to them
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What one step does.

    `passes` through the decoder, over `tokens` in all, of which `answers` are single ones of running answers; `pairs`
    are thousands of (new token, key that it sees); `batches` through the vision encoder, with `pictures` in all.
    `short`: by how many tokens passes stay below FILLING; `keys`: thousands of keys that single tokens see, which count
    as pairs no more: they are read for one token alone.
    """

    passes: int = 0
    answers: int = 0
    tokens: int = 0
    pairs: float = 0.0
    batches: int = 0
    pictures: int = 0
    short: int = 0
    keys: float = 0.0


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds that a step takes anyway (`step`), and for each of what StepCounts counts.

    `spread` holds, evenly spaced from the least to the most, by what factor measured steps were off; `held` is the
    factor that 19 of 20 of the larger half keep to.
    """

    step: float
    passes: float
    answers: float
    tokens: float
    pairs: float
    batches: float
    pictures: float
    short: float = 0.0
    keys: float = 0.0
    spread: tuple[float, ...] = (1.0,)
    held: float = 1.0

    def seconds(self, counts: StepCounts) -> float:
        """What such a step takes."""
        return (
            self.step
            + self.passes * counts.passes
            + self.answers * counts.answers
            + self.tokens * counts.tokens
            + self.pairs * counts.pairs
            + self.batches * counts.batches
            + self.pictures * counts.pictures
            + self.short * counts.short
            + self.keys * counts.keys
        )

    def scaled(self, factor: float) -> StepCosts:
        """The costs of a machine that takes `factor` times as long for everything."""
        values = asdict(self)
        apart = {name: values.pop(name) for name in ("spread", "held")}
        return StepCosts(**{name: factor * value for name, value in values.items()}, **apart)

    def frame(self, tokens: int, keys: int) -> float:
        """Seconds that a frame of so many tokens adds to a step, in a session that holds so many keys."""
        return self.seconds(StepCounts(tokens=tokens, pairs=tokens * keys / 1000, pictures=1)) - self.step

    def answer(self, keys: int) -> float:
        """Seconds that one more answer adds to a step."""
        return self.seconds(StepCounts(answers=1, tokens=1, keys=keys / 1000)) - self.step

    def limits(self, target: float, frame_tokens: int, keys: int, answers: int, most: StepLimits) -> StepLimits:
        """The largest step within `most` that takes `target` seconds while `answers` run; a frame at least.

        All is weighed in tokens of a frame. Two passes are reckoned with, one of them nearly empty, and that of twenty
        such steps one takes longer than told.
        """
        token = (self.frame(frame_tokens, keys) - self.pictures) / frame_tokens
        answer, picture = self.answer(keys) / token, self.pictures / token
        aside = self.seconds(StepCounts(passes=2, batches=1, short=FILLING))
        room = (target / self.held - aside) / token
        least = math.ceil(frame_tokens + picture + answers * answer)
        return StepLimits(
            tokens=min(most.tokens, max(least, int(room))),
            pictures=most.pictures,
            floor=min(most.floor, frame_tokens),
            answer=answer,
            picture=picture,
        )


def fitted(steps: Sequence[tuple[StepCounts, float]]) -> StepCosts:
    """The costs, none negative, that tell measured steps and their seconds best, relative errors weighed alike.

    The steps that are told worst are left out. ValueError if there are none.
    """
    if not steps:
        raise ValueError("costs cannot be told without a measured step")
    counts = np.array([(1.0, *astuple(each)) for each, _ in steps])
    seconds = np.array([each for _, each in steps])
    trusted = np.ones(len(steps), dtype=np.bool_)
    weights = np.zeros(counts.shape[1])
    for _ in range(_ROUNDS):
        weights = _positive(counts[trusted] / seconds[trusted, None])
        off = np.abs(np.log(seconds / np.maximum(counts @ weights, 1e-9)))
        trusted = off <= np.quantile(off, _TRIMMED)
    factors = seconds / np.maximum(counts @ weights, 1e-9)
    spread = np.quantile(factors, np.linspace(0, 1, min(len(steps), 201)))
    held = float(np.quantile(factors[seconds >= np.median(seconds)], _HELD))
    names = [field.name for field in fields(StepCounts)]
    found = dict(zip(["step", *names], weights.tolist(), strict=True))
    return StepCosts(**found, spread=tuple(spread.tolist()), held=held)


def _positive(shares: Floats) -> Floats:
    """Weights of columns, none negative, whose sum is nearest to 1 in every row; columns that hinder are left out.

    So are those that say nothing new: where no pass fills a GPU, how far it falls short follows from its tokens.
    """
    used = _independent(shares)
    while True:
        found = np.linalg.lstsq(shares[:, used], np.ones(len(shares)), rcond=None)[0]
        if (found >= 0).all() or len(used) == 1:
            weights = np.zeros(shares.shape[1])
            weights[used] = np.maximum(found, 0)
            return weights
        used = np.delete(used, found.argmin())


def _independent(columns: Floats) -> NDArray[np.intp]:
    """Places of columns none of which follows from those before it."""
    used: list[int] = []
    scaled = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    for place in range(columns.shape[1]):
        if np.linalg.matrix_rank(scaled[:, [*used, place]], tol=1e-6) > len(used):
            used.append(place)
    return np.array(used)
