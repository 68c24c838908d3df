from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.lesson import IGNORED, LASTING, Lesson, Syllabus, Teacher, stacked
from training.masks import visible
from training.world.questions import KINDS
from workers.models.tokenizer import Tokenizer

pytestmark = pytest.mark.unit
MINI = Path(__file__).parents[2] / "models" / "mini"
SYLLABUS = Syllabus(10, 12, 1152, (1.0,), (4, 4), tuple((kind, 1.0) for kind in KINDS), remembered=1.0, aged=1.0)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(Tokenizer.from_folder(MINI), 2.0)


@pytest.fixture(scope="module")
def lesson(teacher: Teacher) -> Lesson:
    return teacher.lesson(5, SYLLABUS)


def seen(lesson: Lesson) -> torch.Tensor:
    """Who sees whom, [L, L]."""
    batch = {name: torch.from_numpy(array) for name, array in stacked([lesson]).items() if name != "kind"}
    line = torch.arange(len(lesson.tokens))
    return visible(batch, torch.tensor(0), line[:, None], line[None])


def test_a_seed_is_an_example(teacher: Teacher, lesson: Lesson) -> None:
    again, other = teacher.lesson(5, SYLLABUS), teacher.lesson(6, SYLLABUS)
    assert np.array_equal(again.tokens, lesson.tokens)
    assert np.array_equal(again.shown.layers, lesson.shown.layers)
    assert not np.array_equal(other.shown.layers, lesson.shown.layers)


def test_only_answers_are_taught(lesson: Lesson) -> None:
    """Every run of targets follows "assistant", repeats the tokens after it, and ends the turn."""
    tokenizer = Tokenizer.from_folder(MINI)
    opening = [tokenizer.special.im_start, *tokenizer.encode("assistant\n")]
    rows = np.flatnonzero(lesson.target != IGNORED)
    assert (lesson.target[rows] == lesson.tokens[rows + 1]).all()
    starts = rows[np.flatnonzero(np.diff(rows, prepend=-9) != 1)]
    ends = rows[np.flatnonzero(np.diff(rows, append=rows[-1] + 9) != 1)]
    assert len(starts) > 5
    for start in starts:
        assert lesson.tokens[start + 1 - len(opening) : start + 1].tolist() == opening
    assert (lesson.target[ends] == tokenizer.special.im_end).all()
    assert (lesson.target[lesson.branch == -1] == IGNORED).all()


def test_a_branch_sees_the_window_and_itself_alone(lesson: Lesson) -> None:
    mask, ticks = seen(lesson), lesson.tick
    assert lesson.branch.max() > 3
    for branch in range(1, lesson.branch.max() + 1):
        own = np.flatnonzero(lesson.branch == branch)
        keys = np.flatnonzero(mask[own[-1]].numpy())
        assert set(lesson.branch[keys]) == {0, branch}
        assert set(own) <= set(keys)
        now = ticks[own[0]]
        trunk = keys[lesson.branch[keys] == 0]
        frames = set(ticks[trunk[lesson.until[trunk] != LASTING]].tolist())
        assert frames == set(range(max(0, now - lesson.window + 1), now + 1))


def test_remembered_answers_are_given_in_view_of_pictures(teacher: Teacher) -> None:
    lesson = teacher.lesson(5, replace(SYLLABUS, remembered=1.0))
    mask = seen(lesson)
    said = np.flatnonzero((lesson.branch == 0) & (lesson.target != IGNORED))
    assert len(said) > 0
    for row in said:
        newest = lesson.pads.reshape(-1, 64)[lesson.tick[row]]
        assert bool(mask[row, newest].all())


def test_pictures_see_backwards_only_and_no_branch(lesson: Lesson) -> None:
    mask = seen(lesson)
    assert not torch.triu(mask, 1).any()
    trunk = torch.from_numpy(lesson.branch == 0)
    assert not mask[trunk][:, ~trunk].any()
    last = lesson.pads.reshape(-1, 64)[-1]
    assert bool(mask[last[0], last[0] - 1])
    assert not mask[last, int(lesson.pads[0])].any()  # the first picture has left the window


def test_padding_sees_something_so_that_nothing_is_undefined(lesson: Lesson) -> None:
    assert seen(lesson).any(1).all()


def test_positions_are_those_of_the_clock(lesson: Lesson) -> None:
    """Two positions a second, one base a segment, and a gap behind the header in sessions that are not new."""
    grids = lesson.positions[:, lesson.pads.reshape(-1, 64)]
    times, rows, columns = grids
    assert (times == times[:, :1]).all()
    assert (rows - rows[:, :1] == np.repeat(np.arange(8), 8)).all()
    assert (columns - columns[:, :1] == np.tile(np.arange(8), 8)).all()
    steps = np.diff(times[:, 0])
    same_segment = np.diff(rows[:, 0]) == 0
    assert (steps[same_segment] == 2).all()
    assert lesson.positions[0, lesson.pads[0]] > 20


def test_a_trunk_that_does_not_fit_is_refused(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        teacher.lesson(1, replace(SYLLABUS, length=256))
