"""Attention in parts against one dense softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.attention.paged import slots_in
from workers.attention.merge import merged
from workers.attention.plain import PlainAttention, _attend_exact, attend
from workers.core import KVStore, Part, Query
from workers.models.rope import Rope, rotate

pytestmark = pytest.mark.unit

HEADS, KV_HEADS, DIM, PAGE, PAGES = 4, 2, 16, 4, 24
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


@pytest.fixture
def random() -> Callable[..., Tensor]:
    chance = torch.Generator().manual_seed(7)
    return lambda *shape: torch.randn(shape, generator=chance)


def store(random: Callable[..., Tensor], groups: int, device: str, layers: int = 2) -> KVStore:
    planes = (layers, groups, PAGES * PAGE)
    keys, values = (random(*planes, KV_HEADS // groups, DIM).to(device) for _ in range(2))
    return KVStore(keys, values, torch.zeros(planes, device=device))


def turn(vectors: Tensor, by: Tensor) -> Tensor:
    return rotate(vectors, Rope(DIM, 100.0).rotation(by.expand(3, -1)))


def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """q [n, heads, dim], k and v [m, kv_heads, dim], bias [n, m], in float64."""
    k, v = (x.double().repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.double(), k) / math.sqrt(DIM) + bias
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)


def part(pages: list[int], filled: list[int], **changes: int | bool) -> Part:
    return Part(slots_in(np.array([[pages]], np.int32), filled, PAGE), **changes)  # type: ignore[arg-type]


def query(slots: list[int], parts: tuple[Part, ...], start: int = 0, wanted: bool = True) -> Query:
    n = len(slots)
    return Query(start, start + n, np.zeros((3, n), np.int64), np.array([[slots]], np.int32), parts, wanted)


def slots_of(part: Part) -> list[int]:
    slots: list[int] = part.slots[0, 0].tolist()
    return slots


@DEVICES
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("pages", "filled"),
    [
        ([3, 4, 5], [4, 4, 2]),  # one run
        ([9, 2, 7], [4, 3, 4]),  # three runs
        ([1, 3, 5, 7, 9, 11], [4, 4, 4, 4, 4, 3]),  # so many that they are gathered
    ],
)
@pytest.mark.parametrize("n", [1, 6])
def test_parts_and_new_tokens_equal_one_softmax(
    random: Callable[..., Tensor], device: str, groups: int, pages: list[int], filled: list[int], n: int
) -> None:
    kv = store(random, groups, device)
    before = part(pages, filled)
    q, k, v = (random(n, heads, DIM).to(device) for heads in (HEADS, KV_HEADS, KV_HEADS))
    slots = list(range(60, 60 + n))
    out = PlainAttention(kv, turn).plan((query(slots, (before,)),))(1, q, k, v)
    seen = slots_of(before) + slots
    keys, values = (x[1, :, seen].transpose(0, 1).reshape(len(seen), KV_HEADS, DIM) for x in (kv.keys, kv.values))
    causal = torch.full((n, n), -math.inf, device=device).triu(1)
    bias = torch.cat([torch.zeros(n, len(seen) - n, device=device), causal], dim=1)
    torch.testing.assert_close(out.double(), dense(q, keys, values, bias), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys[-n:], k)


def test_a_single_token_goes_on_in_its_own_page(random: Callable[..., Tensor]) -> None:
    kv = store(random, 1, "cpu")
    own = part([5], [2])
    q, k, v = random(1, HEADS, DIM), random(1, KV_HEADS, DIM), random(1, KV_HEADS, DIM)
    out = PlainAttention(kv, turn).plan((query([5 * PAGE + 2], (own,)),))(0, q, k, v)
    seen = [20, 21, 22]
    expected = dense(q, kv.keys[0, 0, seen], kv.values[0, 0, seen], torch.zeros(1, 3))
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_sequences_of_a_batch_do_not_see_each_other(random: Callable[..., Tensor]) -> None:
    kv, alone = store(random, 1, "cpu"), []
    q, k, v = random(5, HEADS, DIM), random(5, KV_HEADS, DIM), random(5, KV_HEADS, DIM)
    first, second = part([0, 1], [4, 4]), part([8], [3])
    planned = PlainAttention(kv, turn).plan(
        (query([80, 81], (first,)), query([90, 91, 92], (second,), start=2)),
    )
    together = planned(0, q, k, v)
    for slots, seen, rows in (([80, 81], first, slice(0, 2)), ([90, 91, 92], second, slice(2, 5))):
        alone.append(PlainAttention(kv, turn).plan((query(slots, (seen,)),))(0, q[rows], k[rows], v[rows]))
    torch.testing.assert_close(together, torch.cat(alone))


@DEVICES
def test_bias_lets_a_key_stand_for_several_or_none(random: Callable[..., Tensor], device: str) -> None:
    kv = store(random, 1, device)
    biased = part([0, 1], [4, 4], biased=True)
    kv.bias[0, 0, :8] = torch.tensor([math.log(3), -math.inf, 0, 0, 0, 0, 0, 0])
    q, k, v = (random(1, heads, DIM).to(device) for heads in (HEADS, KV_HEADS, KV_HEADS))
    out = PlainAttention(kv, turn).plan((query([40], (biased,)),))(0, q, k, v)
    seen = [0, 0, 0, 2, 3, 4, 5, 6, 7, 40]
    expected = dense(q, kv.keys[0, 0, seen], kv.values[0, 0, seen], torch.zeros(1, len(seen), device=device))
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_part_of_keys_that_stand_for_nothing_weighs_nothing(random: Callable[..., Tensor]) -> None:
    kv = store(random, 1, "cpu")
    kv.bias[0, 0, :8] = -math.inf
    q, k, v = random(2, HEADS, DIM), random(2, KV_HEADS, DIM), random(2, KV_HEADS, DIM)
    attention = PlainAttention(kv, turn)
    with_nothing = attention.plan((query([40, 41], (part([0, 1], [4, 4], biased=True),)),))(0, q, k, v)
    torch.testing.assert_close(with_nothing, attention.plan((query([40, 41], ()),))(0, q, k, v))


def test_a_turned_part_equals_keys_that_were_moved(random: Callable[..., Tensor]) -> None:
    kv = store(random, 1, "cpu")
    q, k, v = random(3, HEADS, DIM), random(3, KV_HEADS, DIM), random(3, KV_HEADS, DIM)
    attention = PlainAttention(kv, turn)
    turned = attention.plan((query([40, 41, 42], (part([0, 1], [4, 4], turn=37), part([2], [4]))),))(0, q, k, v)
    kv.keys[0, 0, :8] = turn(kv.keys[0, 0, :8], torch.full((8,), -37))
    moved = attention.plan((query([40, 41, 42], (part([0, 1, 2], [4, 4, 4]),)),))(0, q, k, v)
    torch.testing.assert_close(turned, moved, atol=1e-5, rtol=1e-5)


def test_planes_may_differ(random: Callable[..., Tensor]) -> None:
    kv = store(random, 2, "cpu")
    pages = np.array([[[0, 1], [5, 6]], [[2, 3], [9, 7]]], np.int32)
    uneven = Part(slots_in(pages, [4, 3], PAGE))
    q, k, v = random(1, HEADS, DIM), random(1, KV_HEADS, DIM), random(1, KV_HEADS, DIM)
    out = PlainAttention(kv, turn).plan((query([60], (uneven,)),))(1, q, k, v)
    seen = [[8, 9, 10, 11, 12, 13, 14, 60], [36, 37, 38, 39, 28, 29, 30, 60]]
    keys, values = (torch.cat([x[1, group, seen[group]] for group in range(2)], dim=1) for x in (kv.keys, kv.values))
    torch.testing.assert_close(out.double(), dense(q, keys, values, torch.zeros(1, 8)), atol=1e-5, rtol=1e-5)


def test_the_last_layer_skips_what_nobody_reads(random: Callable[..., Tensor]) -> None:
    kv = store(random, 1, "cpu")
    q, k, v = random(2, HEADS, DIM), random(2, KV_HEADS, DIM), random(2, KV_HEADS, DIM)
    PlainAttention(kv, turn).plan((query([40, 41], (), wanted=False),))(1, q, k, v)
    torch.testing.assert_close(kv.keys[1, 0, [40, 41]], k)


def test_merging_does_not_depend_on_where_the_cut_is(random: Callable[..., Tensor]) -> None:
    q, k, v = random(2, 5, DIM), random(2, 30, DIM), random(2, 30, DIM)
    whole = attend(q, k, v)
    for cut in (1, 7, 29):
        pieces = [attend(q, k[:, :cut], v[:, :cut]), attend(q, k[:, cut:], v[:, cut:])]
        both = merged(pieces)
        torch.testing.assert_close(both.out, whole.out, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both.lse, whole.lse, atol=1e-5, rtol=1e-5)


def test_the_spelt_out_softmax_equals_the_fused_kernel(random: Callable[..., Tensor]) -> None:
    """The one is used wherever the other does not exist."""
    q, k, v, bias = random(2, 5, DIM), random(2, 30, DIM), random(2, 30, DIM), random(5, 30)
    for given in (None, bias):
        fused, exact = attend(q, k, v, given), _attend_exact(q, k, v, given)
        torch.testing.assert_close(exact.out, fused.out, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(exact.lse, fused.lse, atol=1e-5, rtol=1e-5)
