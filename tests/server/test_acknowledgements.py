"""What is told of tracks, and when; times are in seconds and made up."""

import pytest

from server.acknowledgements import Acknowledgements

pytestmark = pytest.mark.unit

PAUSE_S = 0.25


def test_progress_is_told_once() -> None:
    told = Acknowledgements()
    assert list(told.due([(0, 3, 4)], now=10.0)) == [(0, 3, 4)]
    assert list(told.due([(0, 3, 4)], now=11.0)) == []
    assert list(told.due([(0, 3, 5), (1, 0, 1)], now=12.0)) == [(0, 3, 5), (1, 0, 1)]


def test_the_first_settled_chunk_is_told_at_once() -> None:
    assert list(Acknowledgements().due([(0, 0, 1)], now=0.0, pause_s=PAUSE_S)) == [(0, 0, 1)]


def test_a_track_of_which_was_told_a_moment_ago_waits() -> None:
    told = Acknowledgements()
    list(told.due([(0, 0, 1)], now=10.0))
    assert list(told.due([(0, 1, 2), (1, 0, 1)], now=10.2, pause_s=PAUSE_S)) == [(1, 0, 1)]
    assert list(told.due([(0, 1, 2)], now=10.25, pause_s=PAUSE_S)) == [(0, 1, 2)]


def test_what_was_only_received_puts_no_answer_off() -> None:
    told = Acknowledgements()
    list(told.due([(0, 0, 1)], now=10.0))
    assert list(told.due([(0, 0, 2)], now=10.25)) == [(0, 0, 2)]
    assert list(told.due([(0, 1, 2)], now=10.3, pause_s=PAUSE_S)) == [(0, 1, 2)]
