"""Statistics of the benchmarks."""

import math

import psutil
import pytest

from bench.host import cpu_seconds, percentile, slope, together, tree_bytes

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.76, 4.0), (1.0, 4.0)])
def test_percentiles_are_values_that_were_seen(share: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected


def test_nothing_seen_has_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


def test_the_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(x, 3.0 * x + 7.0) for x in (0.0, 1.0, 5.0)]) == pytest.approx(3.0)
    assert slope([(1.0, 2.0)]) == 0.0


def test_this_process_has_memory_and_used_its_processor() -> None:
    me = psutil.Process()
    assert tree_bytes(me) > 1 << 20
    assert cpu_seconds(me) > 0


def test_a_step_is_the_distance_of_moments_while_all_streams_run() -> None:
    assert together([[0.0, 1.0, 1.5, 2.0, 3.0, 9.0], [0.9, 3.1]]) == [0.5, 0.5, 1.0]
    assert together([[0.0, 1.0], [2.0, 3.0]]) == []
