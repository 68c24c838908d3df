"""Greedy, temperature, nucleus, seeds."""

from __future__ import annotations

import pytest
import torch

from workers.engine.sampler import Sampler, sample

pytestmark = pytest.mark.unit

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(count: int, **settings: float) -> list[int]:
    sampler = Sampler(**{"temperature": 1.0, "top_p": 1.0, "seed": 11, **settings})  # type: ignore[arg-type]
    return sample(LOGITS.expand(count, -1), [sampler] * count).read()


def test_greedy_takes_the_likeliest_of_each_row() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    greedy = Sampler(0.0, 1.0, 0)
    assert sample(rows, [greedy, greedy]).read() == [0, 3]
    assert sample(rows, [greedy, Sampler(1.0, 0.0, 0)]).read() == [0, 3]


def test_frequencies_follow_the_distribution() -> None:
    tokens = torch.tensor(drawn(4000))
    frequencies = torch.bincount(tokens, minlength=4) / 4000
    torch.testing.assert_close(frequencies, LOGITS.exp(), atol=0.03, rtol=0)


def test_a_low_temperature_sharpens() -> None:
    assert drawn(2000, temperature=0.2).count(0) > drawn(2000).count(0) * 1.5


def test_the_nucleus_holds_the_fewest_tokens_that_reach_it() -> None:
    assert set(drawn(500, top_p=0.4)) == {0}
    assert set(drawn(500, top_p=0.6)) == {0, 1}
    assert set(drawn(2000, top_p=1.0)) == {0, 1, 2, 3}


def test_the_seed_and_nothing_else_decides() -> None:
    assert drawn(50) == drawn(50)
    assert drawn(50) != drawn(50, seed=12)
    rows = LOGITS.repeat(3, 1)
    alone = Sampler(1.0, 1.0, 5)
    crowd = [Sampler(1.0, 1.0, seed) for seed in (4, 5, 6)]
    together = [sample(rows, crowd).read()[1] for _ in range(20)]
    assert together == [sample(LOGITS[None], [alone]).read()[0] for _ in range(20)]


def test_drawing_goes_on_after_a_prefix() -> None:
    whole = drawn(20)
    later = Sampler(1.0, 1.0, 11, drawn=8)
    assert sample(LOGITS.expand(12, -1), [later] * 12).read() == whole[8:]
