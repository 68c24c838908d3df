import random

import pytest

from server.media.sampler import Sampler

pytestmark = pytest.mark.unit


def kept(fps: float, times: list[float]) -> list[float]:
    sampler = Sampler(fps)
    return [t for t in times if sampler.keep(t)]


def test_a_fast_source_is_sampled_at_exactly_the_rate() -> None:
    times = [1000 * n / 30 for n in range(30 * 60)]
    for fps in (1.0, 2.0, 3.0):
        found = kept(fps, times)
        assert 60 * fps <= len(found) <= 60 * fps + 1
        assert len([t for t in found if t >= 30_000]) == pytest.approx(30 * fps, abs=1)


def test_a_source_at_the_rate_loses_nothing_to_jitter() -> None:
    source = random.Random(3)
    times = [1000 * n + source.uniform(-90, 90) for n in range(1, 200)]
    assert kept(1.0, times) == times


def test_a_gap_is_followed_by_a_picture_at_once_and_no_burst() -> None:
    assert kept(1.0, [0, 1000, 9500, 9900, 10_400, 10_500, 11_500]) == [0, 1000, 9500, 10_400, 11_500]


def test_a_slow_source_is_kept_whole() -> None:
    times = [5000.0 * n for n in range(10)]
    assert kept(1.0, times) == times


def test_an_undecodable_picture_gives_its_place_to_the_next() -> None:
    sampler = Sampler(1.0)
    assert sampler.keep(0)
    assert sampler.keep(1000)
    sampler.forgive()
    assert sampler.keep(1033)
    assert not sampler.keep(1066)


def test_a_new_camera_is_seen_at_once() -> None:
    sampler = Sampler(1.0)
    assert sampler.keep(0)
    assert not sampler.keep(100)
    sampler.restart()
    assert sampler.keep(100)


def test_a_rate_of_nothing_is_refused() -> None:
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="fps"):
            Sampler(fps)
