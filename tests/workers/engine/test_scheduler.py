"""Step plans: counts in, counts out."""

from __future__ import annotations

import random

import pytest

from workers.engine.scheduler import Prompt, StepLimits, Upcoming, plan

pytestmark = pytest.mark.unit

LIMITS = StepLimits(tokens=256, pictures=2, floor=64)


def frame(deadline: float = 0.0, tokens: int = 64, *, encoded: bool = True, due: bool = True) -> Upcoming:
    return Upcoming(tokens, deadline, encoded, due)


def test_nothing_to_do() -> None:
    step = plan(LIMITS, 0, [], [])
    assert (step.prompts, step.encode, step.frames) == ((), (), ())


def test_frames_go_by_deadline_in_whole_frames_that_fit() -> None:
    step = plan(LIMITS, 16, [], [frame(5.0), frame(1.0), frame(4.0), frame(2.0), frame(3.0)])
    assert step.frames == (1, 3, 4)


def test_a_small_frame_may_use_what_a_large_one_cannot() -> None:
    step = plan(LIMITS, 0, [], [frame(1.0, 200), frame(2.0, 100), frame(3.0, 50)])
    assert step.frames == (0, 2)


def test_prompts_come_before_frames_and_may_be_cut() -> None:
    step = plan(LIMITS, 6, [Prompt(100), Prompt(1000), Prompt(10)], [frame(1.0), frame(2.0)])
    assert step.prompts == (100, 150, 0)
    assert step.frames == (0,)


def test_a_text_is_never_cut() -> None:
    step = plan(LIMITS, 0, [Prompt(1000, whole=True), Prompt(1000, whole=True)], [])
    assert step.prompts == (1000, 0)


def test_answers_never_stop_the_video_nor_questions() -> None:
    step = plan(LIMITS, 10_000, [Prompt(1000)], [frame()])
    assert step.prompts == (64,)
    assert step.frames == (0,)


def test_a_frame_larger_than_a_step_still_gets_its_turn() -> None:
    assert plan(LIMITS, 0, [], [frame(tokens=5000)]).frames == (0,)


def test_pictures_have_a_budget_of_their_own_and_wait_for_it() -> None:
    frames = [frame(3.0, encoded=False), frame(1.0, encoded=False), frame(2.0, encoded=False), frame(4.0)]
    step = plan(LIMITS, 0, [], frames)
    assert step.encode == (1, 2)
    assert step.frames == (1, 2, 3)


def test_frames_that_are_not_due_are_encoded_ahead() -> None:
    step = plan(LIMITS, 0, [], [frame(1.0), frame(2.0, encoded=False, due=False)])
    assert step.frames == (0,)
    assert step.encode == (1,)


def test_no_session_starves_and_no_step_exceeds_its_limit() -> None:
    """Ten sessions that want twice what there is: with equal delays each gets its share."""
    chance = random.Random(3)
    waiting = [[float(n)] for n in range(10)]
    served = [0] * 10
    for now in range(500):
        frames = [frame(queue[0]) for queue in waiting]
        answers = chance.randrange(64)
        step = plan(LIMITS, answers, [], frames)
        assert sum(64 for _ in step.frames) <= LIMITS.tokens - answers
        for place in step.frames:
            served[place] += 1
            waiting[place] = [now + 1 + chance.random()]
    assert min(served) > 0.9 * max(served)
