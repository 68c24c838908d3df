"""What steps cost, told from measured ones."""

from __future__ import annotations

import random

import pytest

from workers.engine.costs import StepCosts, StepCounts, fitted
from workers.engine.scheduler import StepLimits

pytestmark = pytest.mark.unit

TRUE = StepCosts(step=1e-3, passes=2e-3, answers=1e-4, tokens=2e-4, pairs=3e-5, batches=5e-4, pictures=1e-2)
MOST = StepLimits(tokens=4096, pictures=64, floor=256)


def some(seed: int, count: int) -> list[StepCounts]:
    chance = random.Random(seed)
    steps = []
    for _ in range(count):
        answers, frames, keys = chance.randrange(16), chance.randrange(6), chance.uniform(0.1, 4)
        tokens = answers + frames * 64 + chance.choice([0, 17])
        steps.append(StepCounts(1 + bool(frames), answers, tokens, tokens * keys, int(bool(frames)), frames))
    return steps


def test_costs_are_found_again_whatever_happened_to_some_of_the_steps() -> None:
    chance = random.Random(1)
    measured = [(counts, TRUE.seconds(counts) * chance.uniform(0.98, 1.02)) for counts in some(2, 300)]
    measured = [(counts, seconds * 8 if n % 20 == 0 else seconds) for n, (counts, seconds) in enumerate(measured)]
    costs = fitted(measured)
    for counts in some(3, 50):
        assert costs.seconds(counts) == pytest.approx(TRUE.seconds(counts), rel=0.05)
    assert costs.spread[len(costs.spread) // 2] == pytest.approx(1, abs=0.02)
    assert costs.spread[-1] > 7


def test_no_cost_is_negative_and_what_never_happened_costs_nothing() -> None:
    costs = fitted([(StepCounts(passes=1, tokens=n, answers=n), 0.01 - n * 1e-4) for n in range(20)])
    assert min(costs.passes, costs.answers, costs.tokens, costs.pairs, costs.step) >= 0
    assert costs.pictures == costs.batches == 0


def test_nothing_can_be_told_from_nothing() -> None:
    with pytest.raises(ValueError, match="measured"):
        fitted([])


@pytest.mark.parametrize("target", [0.03, 0.05, 0.2])
def test_the_largest_step_that_the_target_allows(target: float) -> None:
    limits = TRUE.limits(target, 64, 2000, answers=8, most=MOST)

    def seconds(frames: int) -> float:
        tokens = 8 + frames * 64
        return TRUE.seconds(StepCounts(2, 8, tokens, tokens * 2.0, 1, frames))

    assert limits.tokens == limits.pictures * 64 + 8
    assert seconds(limits.pictures + 1) > target * 0.99
    assert limits.pictures == 1 or seconds(limits.pictures) <= target * 1.01


def test_a_frame_fits_however_small_the_target() -> None:
    assert TRUE.limits(1e-6, 64, 2000, answers=8, most=MOST) == StepLimits(tokens=72, pictures=1, floor=64)


def test_what_was_said_to_be_the_most_is() -> None:
    assert TRUE.limits(10.0, 64, 2000, answers=8, most=StepLimits(256, 3, 32)) == StepLimits(256, 3, 32)
