"""Steps measured at start, what is made of them, and how a full engine is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.workers.engine.rig import Rig
from workers.engine.calibration import SESSIONS, Calibration, calibrated
from workers.engine.costs import FILLING, StepCounts, fitted
from workers.engine.engine import Engine
from workers.engine.fairness import REVIEW_S
from workers.engine.messages import EngineNotice, FrameTaken
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint

pytestmark = pytest.mark.unit

SETTINGS = EngineSettings(pool_tokens=4096, default_budget=512, step_tokens=400, step_pictures=6)


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
    assert {each.answers for each in counts} >= {0, 1}
    assert any(each.answers and each.pictures for each in counts)
    assert all(each.tokens >= each.answers for each in counts)
    assert all(seconds == pytest.approx(1e-3) for _, seconds in steps)
    assert fitted(steps).seconds(counts[0]) == pytest.approx(1e-3, rel=0.05)


class Busy:
    """A device that goes on while the host plans, as its clock shows: about an H100, with frames of 16 tokens for 256.

    Planning takes the host 3 ms, and as much for each picture, which is more than small steps take the device.
    """

    def __init__(self, engine: Engine) -> None:
        self.now = self.ends = 0.0
        self._engine, self._step = engine, engine.step

    @staticmethod
    def cost(counts: StepCounts) -> float:
        return 5e-3 * counts.passes + 3.6e-4 * counts.tokens + 3e-3 * counts.pictures + 1e-4 * counts.answers

    def step(self) -> bool:
        before = replace(self._engine.counters)
        busy, counts = self._step(), self._engine.counters.since(before)
        if counts.passes:
            launched, last = self.now + 3e-3 * (1 + counts.pictures), self.ends
            self.ends = max(launched, last) + self.cost(counts)
            self.now = max(launched, last)
        return busy

    def done(self) -> None:
        self.now = max(self.now, self.ends)


def test_where_the_host_is_ahead_steps_take_what_they_take_the_device(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(checkpoint, SETTINGS, lambda: device.now, ahead=True)
    device = Busy(calibration._engine)
    monkeypatch.setattr(calibration._engine, "step", device.step)
    monkeypatch.setattr(calibration, "_device_done", device.done)
    steps = calibration.steps(rounds=1)
    assert len(steps) > 50
    counts = [each for each, _ in steps]
    assert {each.pictures for each in counts} >= {0, 1, SESSIONS}
    assert any(each.answers and each.pictures for each in counts)
    costs = fitted(steps)
    for each in (StepCounts(1, 0, 16, 3.0, 1, 1), StepCounts(1, 0, 64, 12.0, 1, 4), StepCounts(1, 8, 72, 12.0, 1, 4)):
        full = replace(each, short=FILLING - each.tokens, keys=each.answers * 0.2)
        assert costs.seconds(full) == pytest.approx(Busy.cost(each), rel=0.1)
    assert costs.pictures == pytest.approx(3e-3, rel=0.2), "told from what a frame takes otherwise"
    assert costs.held < 1.15


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
