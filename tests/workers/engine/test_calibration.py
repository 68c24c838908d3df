"""Steps measured at start, what is made of them, and how a full engine is shared."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.workers.engine.card import FRAME, HOST, Clock, Idle, Noise, Seconds, h100, imagined, tiny
from tests.workers.engine.rig import Rig
from workers.engine.calibration import ANSWERS, SESSIONS, Calibration, calibrated
from workers.engine.costs import FILLING, StepCosts, StepCounts, fitted
from workers.engine.fairness import REVIEW_S
from workers.engine.messages import EngineNotice, FrameTaken
from workers.engine.scheduler import StepLimits
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint

pytestmark = pytest.mark.unit

SETTINGS = EngineSettings(pool_tokens=4096, default_budget=512, step_tokens=400, step_pictures=6)
SERVED = EngineSettings(pool_tokens=262_144, default_budget=4_096, step_tokens=4_096, step_pictures=16)
MOST = StepLimits(SERVED.step_tokens, SERVED.step_pictures, SERVED.floor_tokens)
KEYS = 4.1  # thousands


class Ticking:
    """A clock of which each reading is a millisecond later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


def test_all_kinds_of_steps_are_measured(checkpoint: Checkpoint) -> None:
    steps = Calibration(checkpoint, SETTINGS, Ticking()).steps(rounds=1)
    counts = [each for each, _ in steps]
    assert {each.pictures for each in counts} >= {0, 1, 2, SESSIONS}
    assert {each.answers for each in counts} >= {0, 4}, "as many as there is room for"
    assert any(each.answers and each.pictures for each in counts)
    assert all(each.tokens >= each.answers for each in counts)
    assert all(seconds == pytest.approx(1e-3) for _, seconds in steps)
    assert fitted(steps).seconds(counts[0]) == pytest.approx(1e-3, rel=0.05)


def test_no_collection_holds_a_measured_step_up(checkpoint: Checkpoint) -> None:
    collecting: list[bool] = []

    def clock() -> float:
        collecting.append(gc.isenabled())
        return float(len(collecting))

    Calibration(checkpoint, SETTINGS, clock).steps(rounds=1)
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()


@dataclass(slots=True)
class Calibrated:
    """A calibration of an engine on a card that computes nothing, and its clock."""

    calibration: Calibration
    clock: Clock

    @classmethod
    def on(cls, device: Seconds, host: Seconds, noise: Callable[[], float] = lambda: 1.0) -> Calibrated:
        calibration = Calibration(imagined(), SERVED, lambda: clock.now, make_device=Idle, ahead=True)
        clock = Clock(calibration._engine, device, host, noise, ahead=True)
        calibration._engine.step = clock.step  # type: ignore[method-assign]
        calibration._device_done = clock.done  # type: ignore[method-assign]
        return cls(calibration, clock)


def told(costs: StepCosts, off: float, device: Seconds = h100, host: float = 0.0) -> None:
    """Frames, answers and mixtures take what they do, give or take."""
    alone = [(frames, 0) for frames in (1, 2, 3, 4, 6, 8)] + [(0, answers) for answers in (1, 2, 8, 16, 32, 64)]
    for frames, answers in alone + [(frames, answers) for frames in (1, 2, 4, 8) for answers in (1, 8, 32, 64)]:
        tokens = FRAME * frames
        counts = StepCounts(1, answers, tokens + answers, tokens * KEYS, int(bool(frames)), frames)
        counts = replace(counts, short=max(0, FILLING - counts.tokens), keys=answers * KEYS)
        assert costs.seconds(counts) == pytest.approx(max(host, device(counts)), rel=off), (frames, answers)


def test_the_costs_of_a_card_are_found_however_noisy_its_steps() -> None:
    """Of 200 calibrations none is more than a tenth off, and in no other does a frame cost what it does not."""
    at = Calibrated.on(h100, lambda counts: HOST * counts.passes)
    steps = at.calibration.steps()
    assert all(seconds == pytest.approx(h100(counts)) for counts, seconds in steps)
    assert at.clock.now < 10, "seconds that starting an engine takes longer"
    for seed in range(200):
        noise = Noise(random.Random(seed))
        costs = fitted([(counts, seconds * noise()) for counts, seconds in steps])
        told(costs, 0.1)
        limits = costs.limits(0.05, FRAME, 4_096, ANSWERS, MOST)
        assert costs.full(FRAME, 4_096, limits) == pytest.approx(9.2e-3, rel=0.05), seed
        assert limits.tokens < MOST.tokens
        assert costs.held < 1.1


def test_the_time_that_the_host_takes_ahead_is_told_apart() -> None:
    at = Calibrated.on(h100, lambda counts: HOST * counts.passes, Noise(random.Random(1)))
    costs = fitted(at.calibration.steps())
    told(costs, 0.1)
    launching = fitted(at.calibration.launches)
    for counts in (StepCounts(1, 1, 1), StepCounts(1, 0, 2_048, 8_000.0, 1, 8), StepCounts(1, 8, 1_032, 4_000.0, 1, 4)):
        assert launching.seconds(counts) == pytest.approx(HOST, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_where_everything_is_the_host_s_time_limits_are_sane(seed: int) -> None:
    """Whatever a step does takes about as long: there is room for as much as it may be."""
    at = Calibrated.on(tiny, lambda counts: HOST * counts.passes, Noise(random.Random(seed)))
    costs = fitted(at.calibration.steps())
    told(costs, 0.1, tiny, HOST)
    limits = costs.limits(0.05, FRAME, 4_096, ANSWERS, MOST)
    assert (limits.tokens, limits.pictures) == (MOST.tokens, MOST.pictures)
    assert FRAME + limits.picture < MOST.tokens / 8
    assert costs.full(FRAME, 4_096, limits) < HOST / 4


@pytest.mark.parametrize("target", [1e-6, 100.0])
def test_limits_are_fitted_within_what_was_given(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    monkeypatch.setattr(Calibration.steps, "__defaults__", (1,))
    settings = calibrated(checkpoint, SETTINGS, target)
    if target < 1:
        assert 16 + SESSIONS <= settings.step_tokens < 400, "a frame, and what the answers beside it are worth"
    else:
        assert (settings.step_pictures, settings.step_tokens) == (6, 400)
    assert settings.frame_seconds > 0


def test_settings_stay_as_they_are_where_nothing_can_be_measured(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Calibration, "steps", lambda calibration: [])
    assert calibrated(checkpoint, SETTINGS, 0.05) == SETTINGS
    assert "without a measured step" in caplog.text


def test_a_full_engine_takes_from_those_who_ask_for_much_and_tells_them(rig: Callable[..., Rig]) -> None:
    """Room for 8.5 frames a second: one session with 1 loses nothing, one with 20 is cut to what is left."""
    r = rig(frame_seconds=0.1)
    r.open("calm")
    r.open("greedy")
    for tick in range(int(20 * 4 * REVIEW_S)):
        r.now = tick / 20
        if tick % 20 == 0:
            r.push(tick * 50, "calm")
        r.push(tick * 50, "greedy")
        r.run(check=False)
    outcomes = {name: [event.outcome for event in r.said(FrameTaken, session_id=name)] for name in ("calm", "greedy")}
    assert set(outcomes["calm"]) == {"prefilled"}
    late = outcomes["greedy"][int(20 * 2 * REVIEW_S) :]
    assert late.count("prefilled") / (2 * REVIEW_S) == pytest.approx(7.5, rel=0.1)
    assert set(late) == {"prefilled", "dropped_rate"}
    (notice,) = r.said(EngineNotice)
    assert (notice.session_id, notice.code) == ("greedy", "frame_rate_lowered")
    assert "frames a second" in notice.message


def test_when_there_is_room_again_every_frame_is_taken(rig: Callable[..., Rig]) -> None:
    r = rig(frame_seconds=0.1)
    r.open("s")
    for tick in range(int(20 * 5 * REVIEW_S)):
        r.now = tick / 20
        if tick < 20 * 2 * REVIEW_S or tick % 20 == 0:
            r.push(tick * 50)
        r.run(check=False)
    assert [notice.code for notice in r.said(EngineNotice)] == ["frame_rate_lowered", "frame_rate_restored"]
    assert math.isinf(r.engine.sessions["s"].thinning.rate)


def test_no_question_waits_for_a_frame_that_is_left_out(rig: Callable[..., Rig]) -> None:
    r = rig(frame_seconds=10.0)
    r.open("s")
    for tick in range(int(2 * 2 * REVIEW_S)):
        r.now = tick / 2
        r.push(tick * 500)
        r.run(check=False)
    assert r.outcomes()[-1] == "dropped_rate"
    r.ask(session_id="s", at_ms=tick * 500, max_tokens=1)
    r.run(check=False)
    assert len(r.answer()) == 1


def test_what_must_be_complete_is_never_thinned(rig: Callable[..., Rig]) -> None:
    r = rig(frame_seconds=10.0)
    r.open("s", complete=True)
    for tick in range(60):
        r.now = tick / 2
        r.push(tick * 500)
        r.run(check=False)
    assert set(r.outcomes()) == {"prefilled"}
