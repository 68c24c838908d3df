from collections import Counter

import pytest

from training.world.questions import KINDS
from training.world.suite import PER_CLIP, clips, long_clip

pytestmark = pytest.mark.unit


def test_kinds_take_turns_and_yes_and_no_as_well() -> None:
    questions = [question for clip in clips(3, 22) for question in clip.questions]
    counts = Counter(question.kind for question in questions)
    assert len(questions) == 22 * PER_CLIP
    assert set(counts.values()) == {10}
    assert set(counts) == set(KINDS)
    sides = Counter(question.value for question in questions if question.kind == "absent")
    assert abs(sides["yes"] - sides["no"]) <= 2


def test_questions_come_in_order_inside_their_video() -> None:
    for clip in clips(5, 4):
        times = [question.time for question in clip.questions]
        assert times == sorted(times)
        assert 0 < times[0]
        assert times[-1] < clip.script.seconds


def test_a_long_video_is_asked_about_when_it_is_old() -> None:
    clip = long_clip(3, 22, age=100.0, every=4.5)
    assert min(question.time for question in clip.questions) >= 100.0
    assert len({question.kind for question in clip.questions}) >= 10
    assert clip.script.seconds > 190
