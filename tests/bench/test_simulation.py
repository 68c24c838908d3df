"""The simulated engine: nobody starves, budgets hold, and what comes in is accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.schedule import CEILING, H100, H100_HOST, on_card
from bench.simulation import Load, Simulation, Told, arrivals
from workers.engine.costs import FILLING, StepCosts, StepCounts
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


def test_the_simulated_card_is_the_measured_one() -> None:
    """Counted costs give back what they were counted from: steps of ingest, of decoding, and of one frame."""
    for pictures, seconds in ((4, 37.6e-3), (8, 73.3e-3), (16, 147.9e-3)):
        tokens = 260 * pictures
        counts = StepCounts(1, 0, tokens, tokens * 4.368, 1, pictures)
        assert H100.seconds(counts) == pytest.approx(seconds, rel=0.03)
    for answers, seconds in ((1, 6.5e-3), (32, 9.6e-3), (64, 13.9e-3)):
        counts = StepCounts(1, answers, answers, short=FILLING - answers, keys=answers * 4.3)
        assert H100.seconds(counts) == pytest.approx(seconds, rel=0.05)


def test_answers_beside_many_frames_and_live_sessions_keep_their_time() -> None:
    told = on_card(H100, H100_HOST, 20.0, 80)
    beside, live = told["answers_beside_frames"], told["live_80"]
    assert beside["between_tokens_p99_ms"] <= 50
    assert beside["frames_a_second"] == pytest.approx(0.85 * CEILING, rel=0.02)
    assert live["between_tokens_p99_ms"] <= 50
    assert live["first_token_p95_ms"] < 150
    assert live["frame_age_most_ms"] < 1000
    assert live["late_share"] == live["thinned_share"] == 0


def test_a_device_that_is_planned_for_ahead_waits_for_no_host() -> None:
    """Planning takes nothing from a busy device; what was asked meanwhile waits a step longer."""
    load, planning = Load(sessions=300, seconds=10.0, every=5.0, keys=2_000), replace(COSTS.scaled(0), passes=1e-3)
    at_once, ahead = (Simulation(load, COSTS, LIMITS, [8], seed=1, host=host).run() for host in (None, planning))
    assert sum(ahead.served) >= 0.98 * sum(at_once.served)
    assert sum(ahead.first_token) > sum(at_once.first_token)


def test_answers_that_run_from_the_start_go_on_to_the_end() -> None:
    load = Load(sessions=20, seconds=5.0, every=1e9, full=True, keys=2_000, answering=4)
    told = Simulation(load, COSTS, LIMITS, [8], seed=1).run()
    answers = [counts.answers for counts, _ in told.steps]
    assert min(answers) == max(answers) == 4
    assert len(told.between) >= 3 * len(told.steps)
