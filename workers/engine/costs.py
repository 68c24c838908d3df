"""What a step costs, told from what is in it: a linear model, fitted to measured steps, from which budgets follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from workers.engine.scheduler import StepLimits

Floats = NDArray[np.float64]

_TRIMMED = 0.9  # of the measured steps decide; the rest had something else happen to them
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What one step does.

    `passes` through the decoder, over `tokens` in all, of which `answers` are single ones of running answers; `pairs`
    are thousands of (new token, key that it sees); `batches` through the vision encoder, with `pictures` in all.
    """

    passes: int = 0
    answers: int = 0
    tokens: int = 0
    pairs: float = 0.0
    batches: int = 0
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds that a step takes anyway (`step`), and for each of what StepCounts counts.

    `spread` holds, evenly spaced from the least to the most, by what factor measured steps were off.
    """

    step: float
    passes: float
    answers: float
    tokens: float
    pairs: float
    batches: float
    pictures: float
    spread: tuple[float, ...] = (1.0,)

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
        )

    def scaled(self, factor: float) -> StepCosts:
        """The costs of a machine that takes `factor` times as long for everything."""
        weights = (self.step, self.passes, self.answers, self.tokens, self.pairs, self.batches, self.pictures)
        step, passes, answers, tokens, pairs, batches, pictures = (factor * weight for weight in weights)
        return StepCosts(step, passes, answers, tokens, pairs, batches, pictures, self.spread)

    def frame(self, tokens: int, keys: int) -> float:
        """Seconds that a frame of so many tokens adds to a step, in a session that holds so many keys."""
        return self.seconds(StepCounts(tokens=tokens, pairs=tokens * keys / 1000, pictures=1)) - self.step

    def answer(self, keys: int) -> float:
        """Seconds that one more answer adds to a step."""
        return self.seconds(StepCounts(answers=1, tokens=1, pairs=keys / 1000)) - self.step

    def limits(self, target: float, frame_tokens: int, keys: int, answers: int, most: StepLimits) -> StepLimits:
        """The largest step within `most` that takes `target` seconds while `answers` run; a frame at least."""
        fixed = self.seconds(StepCounts(passes=2, batches=1)) + answers * self.answer(keys)
        frames = max(1, int((target - fixed) / self.frame(frame_tokens, keys)))
        return StepLimits(
            tokens=min(most.tokens, frames * frame_tokens + answers),
            pictures=min(most.pictures, frames),
            floor=min(most.floor, frame_tokens),
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
    factors = np.sort(seconds / np.maximum(counts @ weights, 1e-9))
    spread = np.quantile(factors, np.linspace(0, 1, min(len(steps), 201)))
    step, passes, answers, tokens, pairs, batches, pictures = weights.tolist()
    return StepCosts(step, passes, answers, tokens, pairs, batches, pictures, spread=tuple(spread.tolist()))


def _positive(shares: Floats) -> Floats:
    """Weights of columns, none negative, whose sum is nearest to 1 in every row; columns that hinder are left out."""
    used = np.flatnonzero(shares.any(axis=0))
    while True:
        found = np.linalg.lstsq(shares[:, used], np.ones(len(shares)), rcond=None)[0]
        if (found >= 0).all() or len(used) == 1:
            weights = np.zeros(shares.shape[1])
            weights[used] = np.maximum(found, 0)
            return weights
        used = np.delete(used, found.argmin())
