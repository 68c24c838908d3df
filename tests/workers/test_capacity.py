"""Admission by the predicted share of step time."""

from __future__ import annotations

import pytest

from workers.capacity import sessions_admitted

pytestmark = pytest.mark.unit


def test_nothing_hangs_on_what_nobody_has_measured() -> None:
    assert sessions_admitted([30.0] * 9, 0.0, 32) == 32


def test_as_many_are_admitted_as_there_is_time_for() -> None:
    assert sessions_admitted([], 0.025, 100) == 34
    assert sessions_admitted([1.0] * 10, 0.025, 100) == 34


def test_a_session_with_more_frames_leaves_less_for_others() -> None:
    assert sessions_admitted([10.0], 0.025, 100) == 1 + 24


def test_those_that_are_there_stay_however_full_it_is() -> None:
    assert sessions_admitted([10.0] * 8, 0.025, 100) == 8


def test_the_setting_is_the_most() -> None:
    assert sessions_admitted([], 1e-6, 32) == 32
