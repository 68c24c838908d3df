"""Degradation is fair: whoever asks for little gets it, and the others the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.fairness import REVIEW_S, Demand, Governor, Thinning, fair_rate

pytestmark = pytest.mark.unit

demands = st.lists(st.builds(Demand, st.floats(0, 30), st.floats(1e-4, 0.1)), min_size=1, max_size=30)


@given(demands, st.floats(1e-3, 2))
def test_the_cap_uses_all_there_is_and_no_more(wanted: list[Demand], capacity: float) -> None:
    rate = fair_rate(wanted, capacity)
    taken = sum(min(demand.rate, rate) * demand.cost for demand in wanted)
    if math.isinf(rate):
        assert taken <= capacity * (1 + 1e-6)
    else:
        assert taken == pytest.approx(capacity, rel=1e-6)


@given(demands, st.floats(1e-3, 2), st.floats(0, 30))
def test_whoever_comes_too_takes_nothing_from_those_below_the_cap(
    wanted: list[Demand], capacity: float, greed: float
) -> None:
    """One more session lowers the cap, and hurts only those who are above it."""
    assert fair_rate([*wanted, Demand(greed, 0.01)], capacity) <= fair_rate(wanted, capacity) * (1 + 1e-9)


def test_one_that_asks_for_much_does_not_crowd_out_those_that_ask_for_little() -> None:
    wanted = [Demand(1.0, 0.1)] * 4 + [Demand(30.0, 0.1)]
    assert fair_rate(wanted, 0.9) == pytest.approx(5.0)
    assert fair_rate(wanted, 0.25) == pytest.approx(0.5)


@given(st.floats(0.05, 20), st.integers(20, 2000))
def test_no_more_frames_go_on_than_the_rate_and_few_less(rate: float, step_ms: int) -> None:
    thinning = Thinning()
    thinning.rate = rate
    times = range(0, 200 * step_ms, step_ms)
    admitted = sum(thinning.admits(t_ms) for t_ms in times)
    offered, most = len(times), rate * times[-1] / 1000 + 2
    assert admitted <= min(offered, most + 1)
    if 1000 / step_ms <= rate:
        assert admitted == offered
    else:
        assert admitted >= math.floor(most / (1 + rate * step_ms / 1000)) - 1


def test_everything_goes_on_where_nothing_is_capped() -> None:
    thinning = Thinning()
    assert all(thinning.admits(n) for n in range(100))


def reviewed(governor: Governor, offers: dict[str, int], start: float) -> dict[str, float]:
    costs = dict.fromkeys(offers, 0.05)
    governor.review(start, costs)
    for name, count in offers.items():
        for _ in range(count):
            governor.offered(name)
    return dict(governor.review(start + REVIEW_S, costs))


def test_caps_follow_what_is_asked_for() -> None:
    governor = Governor(capacity=0.85)
    caps = reviewed(governor, {"a": 5, "b": 5, "c": 500}, 0.0)
    assert caps["a"] == caps["b"] == math.inf
    assert caps["c"] == pytest.approx((0.85 - 2 * 0.05) / 0.05)
    assert set(reviewed(governor, {"a": 5, "b": 5, "c": 5}, REVIEW_S).values()) == {math.inf}


def test_what_is_reckoned_with_shrinks_while_frames_are_late_and_recovers() -> None:
    governor = Governor(capacity=0.85)
    caps = []
    for turn in range(12):
        governor.late(50 if turn < 4 else 0)
        caps.append(reviewed(governor, {"a": 500}, turn * REVIEW_S)["a"])
    assert caps[3] < caps[2] < caps[1] < caps[0]
    assert caps[3] < caps[-1] < 0.85 / 0.05


def test_between_reviews_nothing_changes() -> None:
    governor = Governor(capacity=0.85)
    assert governor.review(0.0, {"a": 1.0}) == {}
    assert governor.review(REVIEW_S / 2, {"a": 1.0}) == {}
