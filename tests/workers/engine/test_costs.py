"""What steps cost, told from measured ones."""

from __future__ import annotations

import random
from dataclasses import astuple, replace

import pytest

from workers.engine.costs import FILLING, StepCosts, StepCounts, fitted
from workers.engine.scheduler import Reading, StepLimits, Upcoming, plan

pytestmark = pytest.mark.unit

TRUE = StepCosts(
    step=1e-3,
    passes=2e-3,
    answers=1e-4,
    tokens=2e-4,
    pairs=3e-5,
    batches=5e-4,
    pictures=1e-2,
    short=1e-5,
    keys=4e-5,
)
MOST = StepLimits(tokens=4096, pictures=64, floor=256)


def some(seed: int, count: int) -> list[StepCounts]:
    chance = random.Random(seed)
    steps = []
    for _ in range(count):
        answers, frames, keys = chance.randrange(16), chance.randrange(6), chance.uniform(0.1, 4)
        tokens = answers + frames * 128 + chance.choice([0, 17])
        counts = StepCounts(1, answers, tokens, (tokens - answers) * keys, int(bool(frames)), frames)
        steps.append(replace(counts, short=max(0, FILLING - tokens), keys=answers * chance.uniform(0.5, 4)))
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
    assert costs.held < 1.05


def test_no_cost_is_negative_and_what_never_happened_costs_nothing() -> None:
    costs = fitted([(StepCounts(passes=1, tokens=n, answers=n), 0.01 - n * 1e-4) for n in range(20)])
    assert min(costs.passes, costs.answers, costs.tokens, costs.pairs, costs.step) >= 0
    assert costs.pictures == costs.batches == 0


def test_nothing_can_be_told_from_nothing() -> None:
    for nothing in ([], [(StepCounts(passes=1, tokens=1), 0.0)]):
        with pytest.raises(ValueError, match="measured"):
            fitted(nothing)


def test_what_cannot_be_told_apart_shares_its_cost() -> None:
    """Each step has one pass, so it is the same whether a step or a pass takes the time."""
    counts = [StepCounts(passes=1, tokens=n) for n in range(8, 4_000, 8)]
    costs = fitted([(each, 1e-3 + 2e-5 * each.tokens) for each in counts])
    assert costs.step == pytest.approx(costs.passes, rel=0.01) == pytest.approx(5e-4, rel=0.05)
    assert costs.tokens == pytest.approx(2e-5, rel=0.01)


def test_a_gpu_that_reads_its_weights_is_told_from_one_that_multiplies() -> None:
    """As measured: 32 rows take as long as 260, and 1,040 four times that."""

    def seconds(tokens: int) -> float:
        return max(5.8e-3, 1.75e-5 * tokens)

    steps = [StepCounts(passes=1, tokens=n, short=max(0, FILLING - n)) for n in (1, 16, 32, 64, 520, 1040, 1560, 2080)]
    costs = fitted([(each, seconds(each.tokens)) for each in steps])
    for each in steps:
        assert costs.seconds(each) == pytest.approx(seconds(each.tokens), rel=0.1)


@pytest.mark.parametrize("target", [0.03, 0.05, 0.2])
@pytest.mark.parametrize("answers", [0, 8, 60])
def test_a_full_step_takes_as_long_as_it_may(target: float, answers: int) -> None:
    """Whatever it is made of: frames that are encoded or not, beside few or many answers."""
    limits = TRUE.limits(target, 64, 2000, answers=8, most=MOST)
    for encoded in (False, True):
        frames = [Upcoming(64, 0.0, encoded, due=True)] * 200
        step = plan(limits, [Reading(0, 0.0)] * answers, [], frames)
        tokens = answers + len(step.frames) * 64
        pairs, pictures = len(step.frames) * 64 * 2.0, len(step.encode)
        counts = StepCounts(2, answers, tokens, pairs, 1, pictures, short=FILLING, keys=answers * 2.0)
        one = TRUE.frame(64, 2000)
        assert len(step.frames) == 1 or TRUE.seconds(counts) <= target
        assert TRUE.seconds(counts) + one > target * 0.99


def test_limits_leave_room_for_what_is_told_badly() -> None:
    doubtful = replace(TRUE, held=1.28)
    assert doubtful.limits(0.13, 64, 2000, 8, MOST).tokens == TRUE.limits(0.13 / 1.28, 64, 2000, 8, MOST).tokens


def test_what_small_steps_take_beside_their_cost_makes_large_ones_no_smaller() -> None:
    chance = random.Random(4)
    steps = [StepCounts(1, tokens=64 * n, pictures=n) for n in range(1, 17)] * 10
    measured = [(each, TRUE.seconds(each) * (chance.uniform(1, 3) if each.pictures < 4 else 1)) for each in steps]
    assert fitted(measured).held < 1.1


def test_a_frame_fits_however_small_the_target() -> None:
    limits = TRUE.limits(1e-6, 64, 2000, answers=8, most=MOST)
    step = plan(limits, [Reading(0, 0.0)] * 8, [], [Upcoming(64, 0.0, encoded=False, due=True)] * 3)
    assert (step.encode, step.frames) == ((0,), (0,))


def test_what_was_said_to_be_the_most_is() -> None:
    limits = TRUE.limits(10.0, 64, 2000, answers=8, most=StepLimits(256, 3, 32))
    assert (limits.tokens, limits.pictures, limits.floor) == (256, 3, 32)


@pytest.mark.parametrize("target", [1e-6, 5e-4, 0.05])
@pytest.mark.parametrize("known", ["", "step", "step answers", "step pictures", "step tokens", "pairs keys"])
def test_whatever_is_told_a_step_has_room_for_a_frame(known: str, target: float) -> None:
    """Of some costs alone; all others could not be told."""
    nothing = StepCosts(step=0, passes=0, answers=0, tokens=0, pairs=0, batches=0, pictures=0)
    costs = replace(nothing, **{name: getattr(TRUE, name) for name in known.split()})
    limits = costs.limits(target, 64, 2000, answers=8, most=MOST)
    assert limits.tokens <= MOST.tokens
    step = plan(limits, [], [], [Upcoming(64, 0.0, encoded=False, due=True)] * 3)
    assert step.frames[:1] == step.encode[:1] == (0,)
    assert costs.full(64, 2000, limits) >= costs.step / 64


def test_where_tokens_are_few_enough_the_time_of_pictures_still_bounds_a_step() -> None:
    """As when a frame's tokens take no time that could be told: 49 ms are 4 pictures, not the 16 that there may be."""
    costs = StepCosts(step=1e-3, passes=0, answers=1e-4, tokens=0, pairs=0, batches=0, pictures=1e-2)
    limits = costs.limits(0.05, 64, 2000, answers=8, most=StepLimits(4096, 16, 64))
    frames = [Upcoming(64, 0.0, encoded=False, due=True)] * 40
    assert len(plan(limits, [], [], frames).frames) == 4
    assert sum(plan(limits, [Reading(0, 0.0)] * 400, [], []).answers) == 400, "answers never wait for nothing"


def test_a_frame_costs_less_where_steps_are_full() -> None:
    limits = TRUE.limits(0.2, 64, 2000, answers=8, most=MOST)
    alone = replace(limits, pictures=1)
    assert TRUE.full(64, 2000, alone) == pytest.approx(
        TRUE.seconds(StepCounts(1, 0, 64, 128.0, 1, 1, short=FILLING - 64))
    )
    assert TRUE.frame(64, 2000) < TRUE.full(64, 2000, limits) < 0.9 * TRUE.full(64, 2000, alone)


def test_costs_of_a_slower_machine() -> None:
    counts = StepCounts(1, 2, 3, 4.0, 5, 6, 7, 8.0)
    assert TRUE.scaled(3).seconds(counts) == pytest.approx(3 * TRUE.seconds(counts))
    assert len(astuple(counts)) + 3 == len(astuple(TRUE))
