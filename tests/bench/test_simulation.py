"""The simulated engine: nobody starves, budgets hold, and what comes in is accounted for."""

from __future__ import annotations

import pytest

from bench.simulation import Load, Simulation, Told, arrivals
from workers.engine.costs import StepCosts, StepCounts
from workers.engine.scheduler import StepLimits

pytestmark = pytest.mark.unit

COSTS = StepCosts(step=5e-4, passes=5e-4, answers=5e-5, tokens=2e-5, pairs=2e-6, batches=5e-4, pictures=2e-3)
LIMITS = StepLimits(tokens=512, pictures=8, floor=64)


def run(sessions: int) -> tuple[Told, Load]:
    load = Load(sessions=sessions, seconds=10.0, every=5.0, keys=2_000)
    return Simulation(load, COSTS, LIMITS, [8, 12], seed=1).run(), load


def test_arrivals_are_in_order_and_the_same_for_the_same_seed() -> None:
    load = Load(sessions=5, seconds=10.0)
    coming = arrivals(load, 3)
    assert coming == sorted(coming) == arrivals(load, 3) != arrivals(load, 4)
    assert sum(arrival.kind == "frame" for arrival in coming) >= 5 * 9


@pytest.mark.parametrize("sessions", [10, 100, 600])
def test_every_frame_and_question_is_accounted_for(sessions: int) -> None:
    told, load = run(sessions)
    coming = arrivals(load, 1)
    assert sum(told.served) + sum(told.late) == sum(arrival.kind == "frame" for arrival in coming)
    assert len(told.first_token) == sum(arrival.kind == "question" for arrival in coming)


def test_no_step_is_larger_than_it_may_be() -> None:
    told, _ = run(600)
    assert max(counts.pictures for counts, _ in told.steps) <= LIMITS.pictures
    largest = max(counts.tokens for counts, _ in told.steps)
    assert largest <= LIMITS.tokens + LIMITS.floor


def test_a_calm_engine_loses_nothing_and_answers_soon() -> None:
    told, _ = run(50)
    assert sum(told.late) == 0
    assert max(told.first_token) < 0.2


def test_a_full_engine_starves_nobody_and_keeps_answers_coming() -> None:
    """Nearly twice as many as there is time for; capped rates take the place of late frames."""
    load = Load(sessions=300, seconds=40.0, every=5.0, keys=2_000)
    slow = COSTS.scaled(2)
    shared = slow.seconds(StepCounts(passes=1, batches=1)) / LIMITS.pictures
    told, capped = (
        Simulation(load, slow, LIMITS, [8, 12], seed=1, frame_seconds=seconds).run()
        for seconds in (0.0, slow.frame(load.tokens, load.keys) + shared)
    )
    assert min(told.served) > 0
    assert max(told.between) < 0.2
    assert sum(capped.late) < sum(told.late) / 4
    assert min(capped.served) >= 0.6 * max(capped.served)
    assert sum(capped.served) > 0.8 * sum(told.served)


def test_predictions_move_the_clock() -> None:
    told, _ = run(10)
    assert sum(seconds for _, seconds in told.steps) == pytest.approx(
        sum(COSTS.seconds(counts) for counts, _ in told.steps)
    )
    assert all(counts != StepCounts() for counts, _ in told.steps)
