import pytest

from workers.load import BEATS, Load

pytestmark = pytest.mark.unit


def test_a_worker_is_behind_after_losing_pictures_for_some_beats_in_a_row() -> None:
    load = Load()
    for lost in range(1, BEATS):
        load.look([lost, 0])
        assert not load.behind
    load.look([BEATS, 0])
    assert load.behind


def test_one_beat_without_a_loss_and_it_takes_sessions_again() -> None:
    load = Load()
    for lost in range(BEATS + 1):
        load.look([lost])
    assert load.behind
    load.look([BEATS])
    assert not load.behind


def test_a_session_that_leaves_takes_its_losses_along() -> None:
    load = Load()
    for _ in range(BEATS + 1):
        load.look([10, 20])
    load.look([10])
    assert not load.behind
