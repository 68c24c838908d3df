"""Simulated hours in small: everything is answered, nothing is left, and the books balance at every compaction."""

import pytest

from bench.growth import Growth, grow

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("policy", ["window", "infinipot"])
def test_a_few_sessions_grow_older_without_growing(policy: str) -> None:
    load = Growth(hours=40 / 3600, sessions=2, budget=640, every=9, answer_tokens=3, policy=policy, makers=0)
    told = grow(load, "cpu")
    assert told["pictures"] == 80
    assert told["answers"] == 9
    assert told["pages_left"] == 0
    pages = [sample["pages"] for sample in told["samples"][-8:]]
    assert max(pages) <= 2 * 640 // 16
