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
_TRIMMED = 0.9  # of the measured steps say how far off others are; the rest had something else happen to them
_ROUNDS, _EXCHANGES = 12, 3
_SURE = 0.02  # relative error that says nothing
_SHARED = 1e-5  # how much it weighs that counts which cannot be told apart share what they cost
_NOTHING = 1e-12


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
    factor that 19 of 20 of those keep to that take longer than most, without steps that had something else happen to
    them: room cannot be left for these.
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

        All is weighed in tokens of a frame: each is worth the time it takes or, where the most tokens would take less
        than there is, its share of that. Two passes are reckoned with, one of them nearly empty, and that of twenty
        such steps one takes longer than told. Where nothing takes time, steps are as large as they may be.
        """
        frame, each = self.frame(frame_tokens, keys), self.answer(keys)
        room = target / self.held - self.seconds(StepCounts(passes=2, batches=1, short=FILLING))
        token = max((frame - self.pictures) / frame_tokens, room / most.tokens, frame / most.tokens)
        if token <= 0:
            return most
        answer, picture = each / token, self.pictures / token
        least = math.ceil(frame_tokens + picture + answers * answer)
        return StepLimits(
            tokens=min(most.tokens, max(least, int(room / token))),
            pictures=most.pictures,
            floor=min(most.floor, frame_tokens),
            answer=answer,
            picture=picture,
        )

    def full(self, frame_tokens: int, keys: int, limits: StepLimits) -> float:
        """Seconds that a frame takes where steps are as full of frames as `limits` let them be."""
        frames = max(1, min(limits.pictures, int(limits.tokens / (frame_tokens + limits.picture))))
        tokens = frames * frame_tokens
        counts = StepCounts(1, 0, tokens, tokens * keys / 1000, 1, frames, max(0, FILLING - tokens))
        return self.seconds(counts) / frames


def fitted(steps: Sequence[tuple[StepCounts, float]]) -> StepCosts:
    """The costs, none negative, that tell measured steps and their seconds best, relative errors weighed alike.

    Least absolute errors, by least squares weighed anew: steps that had something else happen to them count little.
    Counts that always come together share what they cost. ValueError if no step took any time.
    """
    steps = [(counts, seconds) for counts, seconds in steps if seconds > 0]
    if not steps:
        raise ValueError("costs cannot be told without a measured step")
    counts = np.array([(1.0, *astuple(each)) for each, _ in steps])
    seconds = np.array([each for _, each in steps])
    shares = counts / seconds[:, None]
    scale = np.maximum(np.linalg.norm(shares, axis=0) / math.sqrt(len(steps)), 1e-300)
    shares /= scale
    trust = np.ones(len(steps))
    for _ in range(_ROUNDS):
        weighed = shares * (trust / trust.sum())[:, None]
        found = _nonnegative(weighed.T @ shares + _SHARED * np.eye(len(scale)), weighed.sum(axis=0))
        trust = 1 / np.maximum(np.abs(shares @ found - 1), _SURE)
    weights = found / scale
    factors = seconds / np.maximum(counts @ weights, _NOTHING)
    off = np.abs(np.log(factors))
    usual = off <= np.quantile(off, _TRIMMED)
    large = usual & (seconds >= (1 - _SURE) * seconds[usual].mean())
    spread = np.quantile(factors, np.linspace(0, 1, min(len(steps), 201)))
    held = float(np.quantile(factors[large], _HELD))
    names = [field.name for field in fields(StepCounts)]
    told = dict(zip(["step", *names], weights.tolist(), strict=True))
    return StepCosts(**told, spread=tuple(spread.tolist()), held=held)


def _nonnegative(gram: Floats, aim: Floats) -> Floats:
    """The x, none negative, at which x'Gx / 2 - a'x is least (Lawson and Hanson 1974); `gram` is positive definite."""
    found, used = np.zeros(len(aim)), np.zeros(len(aim), dtype=np.bool_)
    for _ in range(_EXCHANGES * len(aim)):
        gains = np.where(used, -np.inf, aim - gram @ found)
        if gains.max() <= _NOTHING * np.abs(aim).max():
            break
        used[gains.argmax()] = True
        while True:
            trial = np.zeros(len(aim))
            trial[used] = np.linalg.solve(gram[np.ix_(used, used)], aim[used])
            falling = used & (trial <= 0)
            if not falling.any():
                break
            short = found[falling] / np.maximum(found[falling] - trial[falling], _NOTHING)
            found += short.min() * (trial - found)
            used &= found > _NOTHING
        found = trial
    return found
