"""Step plans: counts in, counts out."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.fairness import Turns
from workers.engine.scheduler import PRESSING_S, SLACK_S, Prompt, Reading, StepLimits, Upcoming, plan

pytestmark = pytest.mark.unit

LIMITS = StepLimits(tokens=256, pictures=2, floor=64)


class Stream:
    """A session, as far as turns know one."""


def frame(deadline: float = 0.0, tokens: int = 64, *, encoded: bool = True, due: bool = True) -> Upcoming:
    return Upcoming(tokens, deadline, encoded, due)


def readers(count: int) -> list[Reading]:
    """Answers that have said nothing yet."""
    return [Reading(0, 0.0)] * count


def test_nothing_to_do() -> None:
    step = plan(LIMITS, [], [], [])
    assert (step.answers, step.prompts, step.encode, step.frames) == ((), (), (), ())


def test_frames_go_by_deadline_in_whole_frames_that_fit() -> None:
    step = plan(LIMITS, readers(16), [], [frame(5.0), frame(1.0), frame(4.0), frame(2.0), frame(3.0)])
    assert step.frames == (1, 3, 4)


def test_whoever_sends_too_much_delays_only_itself() -> None:
    """A flood keeps the oldest frames waiting, so that by deadline alone a session beside it would never be in time."""
    flood, calm, patient = Stream(), Stream(), Upcoming(64, 0.5, encoded=True, due=True, turn=math.inf)
    one, turns = StepLimits(tokens=64, pictures=2, floor=64), Turns()
    delays, since = [], -1
    for step in range(40):
        since = step if step % 4 == 0 else since
        waiting = [flood] if since < 0 else [flood, calm]
        frames = [
            Upcoming(64, 1.0 if whose is flood else 9.0, encoded=True, due=True, turn=turns.of(whose))
            for whose in waiting
        ]
        [whose] = [waiting[place] for place in plan(one, [], [], [*frames, patient]).frames]
        turns.took([whose])
        if whose is calm:
            delays.append(step - since)
            since = -1
    assert len(delays) == 10
    assert max(delays) <= 1


def test_who_was_away_has_saved_up_no_turns() -> None:
    busy, back = Stream(), Stream()
    turns = Turns()
    for _ in range(50):
        turns.took([busy])
    in_turn = []
    for _ in range(6):
        in_turn.append(min((busy, back), key=turns.of))
        turns.took(in_turn[-1:])
    assert in_turn.count(busy) >= 2


def test_a_small_frame_may_use_what_a_large_one_cannot() -> None:
    step = plan(LIMITS, [], [], [frame(1.0, 200), frame(2.0, 100), frame(3.0, 50)])
    assert step.frames == (0, 2)


def test_prompts_come_before_frames_and_may_be_cut() -> None:
    step = plan(LIMITS, readers(6), [Prompt(100), Prompt(1000), Prompt(10)], [frame(1.0), frame(2.0)])
    assert step.prompts == (100, 150, 0)
    assert step.frames == (0,)


def test_a_text_is_never_cut() -> None:
    step = plan(LIMITS, [], [Prompt(1000, whole=True), Prompt(1000, whole=True)], [])
    assert step.prompts == (1000, 0)


def test_answers_never_stop_the_video_nor_questions() -> None:
    step = plan(LIMITS, readers(10_000), [Prompt(1000)], [frame()])
    assert step.prompts == (64,)
    assert step.frames == (0,)


def test_a_frame_larger_than_a_step_still_gets_its_turn() -> None:
    assert plan(LIMITS, [], [], [frame(tokens=5000)]).frames == (0,)


def test_pictures_have_a_budget_of_their_own_and_wait_for_it() -> None:
    frames = [frame(3.0, encoded=False), frame(1.0, encoded=False), frame(2.0, encoded=False), frame(4.0)]
    step = plan(LIMITS, [], [], frames)
    assert step.encode == (1, 2)
    assert step.frames == (1, 2, 3)


def test_frames_that_are_not_due_are_encoded_ahead() -> None:
    step = plan(LIMITS, [], [], [frame(1.0), frame(2.0, encoded=False, due=False)])
    assert step.frames == (0,)
    assert step.encode == (1,)


def test_what_need_not_be_encoded_of_a_picture_takes_no_room() -> None:
    half = replace(frame(encoded=False), share=0.5)
    assert len(plan(LIMITS, [], [], [half] * 9).encode) == 4
    weighed = StepLimits(tokens=512, pictures=8, floor=64, picture=256.0)
    assert [len(plan(weighed, [], [], [each] * 9).frames) for each in (frame(encoded=False), half)] == [1, 2]


def test_no_session_starves_and_no_step_exceeds_its_limit() -> None:
    """Ten sessions that want twice what there is: with equal delays each gets its share."""
    chance = random.Random(3)
    waiting = [[float(n)] for n in range(10)]
    served = [0] * 10
    for now in range(500):
        frames = [frame(queue[0]) for queue in waiting]
        answers = chance.randrange(64)
        step = plan(LIMITS, readers(answers), [], frames)
        assert sum(64 for _ in step.frames) <= LIMITS.tokens - answers
        for place in step.frames:
            served[place] += 1
            waiting[place] = [now + 1 + chance.random()]
    assert min(served) > 0.9 * max(served)


def test_a_reader_with_enough_to_read_waits_where_not_everything_fits() -> None:
    fast, slow = Reading(sent=100, since=0.0), Reading(sent=10, since=0.0)  # 20 s and 2 s of text
    frames = [frame(float(n)) for n in range(4)]
    assert plan(LIMITS, [fast, slow], [], frames, now=1.0).answers == (False, True)
    assert plan(LIMITS, [fast, slow], [], frames[:3], now=1.0).answers == (True, True), "there is room for all"
    assert plan(LIMITS, [fast, slow], [], frames, now=20.0).answers == (True, True), "it has been read"


def test_answers_wait_only_where_a_frame_would_be_lost_over_them() -> None:
    """A queue alone is no reason: what is fed as fast as it goes, and what is far from late, stop no answer."""
    ahead = Reading(sent=1000, since=0.0)
    for lateness, goes in ((math.inf, True), (PRESSING_S + 0.1, True), (PRESSING_S - 0.1, False), (-1.0, False)):
        frames = [frame(10.0 + lateness) for _ in range(9)]
        assert plan(LIMITS, [ahead], [], frames, now=10.0).answers == (goes,), lateness


def test_answers_and_pictures_weigh_what_their_time_is_worth() -> None:
    limits = StepLimits(tokens=1000, pictures=9, floor=64, answer=10.0, picture=100.0)
    fresh, seen = [frame(encoded=False, tokens=200)] * 9, [frame(tokens=200)] * 9
    assert len(plan(limits, [], [], fresh).frames) == 3
    assert len(plan(limits, [], [], seen).frames) == 5
    assert len(plan(limits, readers(40), [], fresh).frames) == 2
    assert len(plan(limits, [], [], [frame(encoded=False, tokens=20)] * 9).frames) == 8


def test_pictures_are_encoded_ahead_only_where_there_is_time_left() -> None:
    limits = StepLimits(tokens=450, pictures=9, floor=64, picture=100.0)
    frames = [frame(encoded=False, tokens=200), *[frame(encoded=False, due=False)] * 3]
    step = plan(limits, [], [], frames)
    assert (step.encode, step.frames) == ((0, 1), (0,))


def test_frames_that_wait_for_something_else_press_nobody() -> None:
    waiting = [frame(due=False)] * 9
    assert plan(LIMITS, [Reading(100, 0.0)], [], waiting, now=1.0).answers == (True,)


@settings(max_examples=200, deadline=None)
@given(
    readings=st.lists(st.builds(Reading, sent=st.integers(0, 500), since=st.floats(-100, 0)), max_size=40),
    prompts=st.lists(st.builds(Prompt, tokens=st.integers(1, 500), whole=st.booleans()), max_size=6),
    frames=st.lists(
        st.builds(Upcoming, st.integers(1, 300), st.floats(-10, 10), st.booleans(), st.booleans()), max_size=40
    ),
)
def test_every_step_keeps_its_limits_and_gets_something_done(
    readings: list[Reading], prompts: list[Prompt], frames: list[Upcoming]
) -> None:
    step = plan(LIMITS, readings, prompts, frames, now=0.0)
    written = [frames[place] for place in step.frames]
    encoded = [frames[place] for place in step.encode]
    room = max(LIMITS.tokens - sum(step.answers), LIMITS.floor)
    uncut = max((prompt.tokens for prompt in prompts if prompt.whole), default=0)
    first = max((each.tokens for each in written), default=0)
    assert sum(step.prompts) + sum(each.tokens for each in written) <= room + uncut + first
    assert len(encoded) <= LIMITS.pictures
    assert all(
        each.due and (each.encoded or place in step.encode) for place, each in zip(step.frames, written, strict=True)
    )
    assert not any(each.encoded for each in encoded)
    assert all(taken <= prompt.tokens for taken, prompt in zip(step.prompts, prompts, strict=True))
    assert not prompts or step.prompts[0] > 0
    assert step.frames or not any(each.due and each.encoded for each in frames)
    assert all(goes or reading.unread(0.0) >= SLACK_S for goes, reading in zip(step.answers, readings, strict=True))


def test_no_answer_waits_longer_than_its_reader_needs() -> None:
    """Under pressure that never ends: no reader is ever without text, once the answer has begun."""
    sent, now = [0] * 8, 0.0
    for _ in range(4000):
        now += 0.05
        frames = [frame(now + n / 10) for n in range(8)]
        step = plan(LIMITS, [Reading(count, 0.0) for count in sent], [], frames, now)
        sent = [count + goes for count, goes in zip(sent, step.answers, strict=True)]
        assert min(Reading(count, 0.0).unread(now) for count in sent) > 0
    assert max(sent) <= (now + SLACK_S) * 5 + 1
