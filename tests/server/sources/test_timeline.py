import random

import pytest

from server.sources.backoff import Backoff
from server.sources.timeline import Timeline

pytestmark = pytest.mark.unit


def test_session_time_goes_on_by_the_sources_clock() -> None:
    timeline = Timeline(5_000)
    placed = [
        timeline.place("video", n * 100_000, 10 + n * 0.1 + jitter) for n, jitter in enumerate((0, 0.03, 0, 0.05))
    ]
    assert [item.t_ms for item in placed] == [5_000, 5_100, 5_200, 5_300]
    assert not any(item.jump_ms for item in placed)


def test_tracks_share_the_clock() -> None:
    timeline = Timeline(1_000)
    assert timeline.place("audio", 0, 0.0).t_ms == 1_000
    assert timeline.place("video", 99_000, 0.1).t_ms == 1_099
    assert timeline.place("audio", 200_000, 0.2).t_ms == 1_200


def test_times_never_go_back_where_pictures_come_in_decoding_order() -> None:
    timeline = Timeline(0)
    placed = [timeline.place("video", media, 1.0) for media in (0, 300_000, 100_000, 200_000, 400_000)]
    assert [item.t_ms for item in placed] == [0, 300, 301, 302, 400]
    assert not any(item.jump_ms for item in placed)


@pytest.mark.parametrize("jump_s", [-3600, -5, 60, 86_400])
def test_a_clock_that_jumps_goes_on_with_arrival(jump_s: int) -> None:
    timeline = Timeline(0)
    timeline.place("video", 0, 100.0)
    timeline.place("video", 1_000_000, 101.0)
    placed = timeline.place("video", (2 + jump_s) * 1_000_000, 102.0)
    assert (placed.t_ms, placed.jump_ms) == (2_000, jump_s * 1_000)
    after = timeline.place("video", (3 + jump_s) * 1_000_000, 103.0)
    assert (after.t_ms, after.jump_ms) == (3_000, 0)
    assert timeline.lag_s == pytest.approx(0, abs=1e-3)


def test_a_pause_is_no_jump() -> None:
    timeline = Timeline(0)
    timeline.place("video", 0, 0.0)
    placed = timeline.place("video", 60_000_000, 60.0)
    assert (placed.t_ms, placed.jump_ms) == (60_000, 0)


def test_lag_is_what_comes_later_than_the_first() -> None:
    timeline = Timeline(0)
    for n in range(20):
        timeline.place("video", n * 100_000, n * 0.2)  # at half the speed
    assert timeline.lag_s == pytest.approx(1.9, abs=0.01)
    timeline.place("video", 4_000_000, 4.0)
    assert timeline.lag_s == pytest.approx(0, abs=0.01)


def test_a_clock_that_drifts_is_not_late() -> None:
    timeline = Timeline(0)
    for minute in range(24 * 60):
        timeline.place("video", minute * 60_000_000, minute * 60 * (1 + 100e-6))
    assert timeline.lag_s == pytest.approx(0, abs=0.05)


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(7))
    waits = [backoff.next() for _ in range(40)]
    for number, wait in enumerate(waits):
        whole = min(0.5 * 2**number, 30.0)
        assert whole / 2 <= wait <= whole
    assert len(set(waits)) == len(waits), "many sources do not come back together"
    backoff.reset()
    assert backoff.next() <= 0.5
