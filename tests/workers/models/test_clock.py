import numpy as np
import pytest

from workers.models.clock import Clock, Segment

pytestmark = pytest.mark.unit


def test_text_advances_all_axes_together() -> None:
    positions, clock = Clock(rate=2, next=7).text(3)
    assert positions.tolist() == [[7, 8, 9], [7, 8, 9], [7, 8, 9]]
    assert positions.dtype == np.int64
    assert clock.next == 10


def test_first_grid_starts_at_its_base_and_the_clock_passes_its_larger_side() -> None:
    positions, clock = Clock(rate=2, next=5).opened(2, 3).grid(12_345)
    assert positions.tolist() == [
        [5, 5, 5, 5, 5, 5],
        [5, 5, 5, 6, 6, 6],
        [5, 6, 7, 5, 6, 7],
    ]
    assert clock.next == 8
    assert clock.segment == Segment(base=5, height=2, width=3, first_ms=12_345, last_ms=12_345, last_t=5)


@pytest.mark.parametrize(
    ("rate", "times_ms", "expected"),
    [
        (2, [0, 1000, 2000, 3000], [0, 2, 4, 6]),
        (2, [0, 500, 1000, 1500], [0, 1, 2, 3]),
        (2, [0, 250, 500, 750, 1000, 1250], [0, 1, 1, 2, 2, 3]),  # 4 fps: halves go up, never to even
        (2, [0, 249, 251], [0, 0, 1]),
        (2, [400, 1400, 900, 2400], [0, 2, 2, 4]),  # a time that runs backwards does not move the axis back
        (25, [0, 20, 40, 59], [0, 1, 1, 1]),
    ],
)
def test_time_axis_of_a_segment(rate: float, times_ms: list[int], expected: list[int]) -> None:
    clock = Clock(rate, next=100).opened(1, 1)
    times = []
    for time_ms in times_ms:
        positions, clock = clock.grid(time_ms)
        times.append(int(positions[0, 0]) - 100)
    assert times == expected


def test_clock_follows_time_once_it_outruns_the_grid() -> None:
    clock = Clock(rate=2).opened(4, 4)
    after = []
    for second in range(5):
        _, clock = clock.grid(second * 1000)
        after.append(clock.next)
    assert after == [4, 4, 5, 7, 9]


def test_segment_admits_until_thirty_seconds() -> None:
    _, clock = Clock(rate=2).opened(2, 2).grid(3_000)
    assert clock.segment is not None
    assert clock.segment.admits(32_999, 2, 2)
    assert not clock.segment.admits(33_000, 2, 2)
    assert not clock.segment.admits(4_000, 2, 3)
    assert Segment(base=0, height=2, width=2).admits(10**9, 2, 2)


def test_a_grid_needs_a_segment() -> None:
    with pytest.raises(ValueError, match="open segment"):
        Clock(rate=2).grid(0)


def test_following_never_turns_a_clock_back() -> None:
    branch = Clock(rate=2, next=20)
    assert branch.following(Clock(rate=2, next=30)).next == 30
    assert branch.following(Clock(rate=2, next=10)).next == 20


def test_shifted_clock_lays_the_next_grid_lower_by_the_same_amount() -> None:
    _, clock = Clock(rate=2, next=1000).opened(2, 2).grid(0)
    there, _ = clock.grid(1000)
    here, after = clock.shifted(-900).grid(1000)
    assert np.array_equal(there - 900, here)
    assert after.next == 103
    assert Clock(rate=2, next=9).shifted(-4) == Clock(rate=2, next=5)
