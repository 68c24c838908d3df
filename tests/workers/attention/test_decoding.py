"""Attention of single new tokens by a kernel of our own: near that in float64, always the same, where it is asked for.

It runs on a GPU, or anywhere in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.interpreter import DEVICE, INTERPRETED, KIND, MARKS, TRITON
from workers.core import FLOAT8, KVStore, Part, Query, Slots, indexed, narrowed

LAYERS, SLOTS, ROOM, SPARE = 2, 6_000, 9_000, 3

pytestmark = MARKS

if TRITON:
    from workers import launches
    from workers.attention import decoding
    from workers.attention.decoding import Decoding, Plan

    # Few that differ in more than numbers: each of those is compiled.
    ONE_WARP, FOUR_WARPS = Plan(32, 1, 7, 7, 1, 32), Plan(64, 4, 5, 5, 1, 128)
    PLANS = [
        pytest.param(replace(ONE_WARP, programs=1), id="one program"),
        pytest.param(ONE_WARP, id="tiles in parts"),
        pytest.param(replace(ONE_WARP, programs=150), id="more programs than blocks"),
        pytest.param(replace(ONE_WARP, programs=150, least=4), id="fewer programs than there are"),
        pytest.param(FOUR_WARPS, id="four warps"),
    ]
else:
    PLANS = []

BATCHES = [
    pytest.param((0,), id="nothing before"),
    pytest.param((1, 0, 37, 64, 0, 200, 16), id="uneven"),
    pytest.param((700,), id="one"),
    pytest.param(tuple(int(n) for n in np.random.default_rng(1).integers(0, 80, 64)), id="64"),
]


@dataclass(frozen=True)
class Shape:
    """A pool's heads."""

    heads: int
    kv_heads: int
    dim: int
    eight: bool = False


SHAPES = [pytest.param(Shape(28, 4, 128), id="7B"), pytest.param(Shape(28, 4, 128, eight=True), id="7B, eight bits")]
OTHERS = [
    pytest.param(Shape(4, 4, 64), id="each its own"),
    pytest.param(Shape(17, 1, 32), id="more than a tile's rows"),
    pytest.param(Shape(6, 2, 64, eight=True), id="small, eight bits"),
]
WIDE = Shape(14, 2, 128)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def pool(shape: Shape) -> KVStore:
    """A pool whose slots that nobody wrote hold what would be noticed; keys and values lie apart by their slots."""
    size = (LAYERS, 1, SLOTS, shape.kv_heads, shape.dim)
    keys, values = (torch.randn(size) for _ in range(2))
    values += torch.arange(SLOTS)[:, None, None] % 5
    keys[:, :, -100:] = values[:, :, -100:] = 400.0 if shape.eight else torch.nan
    bias = torch.zeros(size[:3], device=DEVICE)
    kinds = [x.to(DEVICE, KIND) for x in (keys, values)]
    if not shape.eight:
        return KVStore(kinds[0], kinds[1], bias)
    return KVStore(narrowed(kinds[0], FLOAT8), narrowed(kinds[1], FLOAT8), bias, wide=KIND)


def answers(counts: Sequence[int], parts: int = 2, seed: int = 0) -> tuple[Query, ...]:
    """Single tokens of sequences that see so many slots each, anywhere in the pool; none sees another's."""
    order = np.random.default_rng(seed).permutation(SLOTS - 200).astype(np.int32) + SPARE + 1
    queries, start = [], len(counts)
    for row, count in enumerate(counts):
        mine = np.array_split(order[start : start + count], parts)
        seen = tuple(Part(part.reshape(1, 1, -1)) for part in mine if len(part))
        start += count
        queries.append(Query(row, row + 1, np.zeros((3, 1), np.int64), order[row].reshape(1, 1, 1), seen))
    return tuple(queries)


def tokens(rows: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a product makes them: side by side in one tensor."""
    every = torch.randn(rows, shape.heads + 2 * shape.kv_heads, shape.dim).to(DEVICE, KIND)
    if shape.eight and INTERPRETED:  # which rounds to eight bits wrongly
        every = torch.where(every.abs() < 2**-6, 0.5, narrowed(every, FLOAT8).to(KIND))
    q, k, v = every.tensor_split((shape.heads, shape.heads + shape.kv_heads), dim=1)
    return q, k, v


def exact(store: KVStore, layer: int, queries: Sequence[Query], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the queries see, in float64."""
    outs = []
    for query, mine, key, value in zip(queries, q.double(), k, v, strict=False):
        seen = np.concatenate([part.slots[0, 0] for part in query.parts] or [np.zeros(0)])
        slots = torch.from_numpy(seen).long().to(DEVICE)
        keys, values = (
            torch.cat([kept[layer, 0, slots].view(new.dtype).double(), new.double()[None]])
            for kept, new in (
                (indexed(store.keys), narrowed(key, store.keys.dtype)),
                (indexed(store.values), narrowed(value, store.values.dtype)),
            )
        )
        keys, values = (x.repeat_interleave(len(mine) // len(key), dim=1) for x in (keys, values))
        scores = torch.einsum("hd,nhd->hn", mine, keys) / mine.shape[-1] ** 0.5
        outs.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), values))
    return torch.stack(outs) if outs else q[:0].double()


def near(got: Tensor, expected: Tensor, *, eight: bool = False) -> None:
    """Within the rounding of what is computed in; eight bits are in half precision wherever that is."""
    if not len(got):
        return
    off = ((got.double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max()
    assert off < ((1e-3 if eight else 1e-5) if INTERPRETED else 1e-2)


def bits(store: KVStore) -> tuple[Tensor, Tensor]:
    return indexed(store.keys).clone(), indexed(store.values).clone()


def written(store: KVStore, before: tuple[Tensor, Tensor], layer: int, queries: Sequence[Query], *new: Tensor) -> None:
    """Only the queries' own slots of one layer have changed, to the new keys and values."""
    slots = torch.tensor([int(query.slots[0, 0, 0]) for query in queries], dtype=torch.int64, device=DEVICE)
    for plane, was, fresh in zip((store.keys, store.values), before, new, strict=True):
        was[layer, 0, slots] = indexed(narrowed(fresh[: len(queries)], plane.dtype))
        torch.testing.assert_close(indexed(plane), was, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("counts", BATCHES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_near_those_in_float64_and_always_the_same(
    plan: Plan, counts: tuple[int, ...], shape: Shape
) -> None:
    store, queries = pool(shape), answers(counts)
    q, k, v = tokens(len(counts), shape)
    expected, before = exact(store, 1, queries, q, k, v), bits(store)
    fixed = Decoding(store, shape.heads, len(counts), ROOM, plan)
    assert fixed.plan(queries)
    outs = [fixed(1, q, k, v).clone() for _ in range(2 if INTERPRETED else 5)]
    near(outs[0], expected, eight=shape.eight)
    assert all(torch.equal(out, outs[0]) for out in outs)
    written(store, before, 1, queries, k, v)


@pytest.mark.parametrize("counts", BATCHES)
@pytest.mark.parametrize("shape", OTHERS)
def test_heads_may_be_others(counts: tuple[int, ...], shape: Shape) -> None:
    test_outputs_are_near_those_in_float64_and_always_the_same(ONE_WARP, counts, shape)


@pytest.mark.parametrize("eight", [False, True])
def test_fewer_sequences_leave_the_rest_alone_from_one_plan_to_the_next(eight: bool) -> None:
    shape = replace(WIDE, eight=eight)
    store = pool(shape)
    fixed = Decoding(store, shape.heads, 9, ROOM, replace(ONE_WARP, programs=11, least=2))
    for seed, counts in enumerate(((40, 3, 900), (5,), (), (0, 100, 7, 300, 2, 64, 0, 33, 1), (33, 0))):
        queries, (q, k, v) = answers(counts, parts=1 + seed, seed=seed), tokens(9, shape)
        before = bits(store)
        assert fixed.plan(queries)
        for layer in range(LAYERS):
            expected, elsewhere = exact(store, layer, queries, q, k, v), torch.full_like(q, 7.0)
            out = fixed(layer, q, k, v)
            near(out[: len(counts)], expected, eight=eight)
            assert torch.isfinite(out).all()
            assert torch.equal(fixed(layer, q, k, v, elsewhere)[: len(counts)], out[: len(counts)])
            assert (elsewhere[len(counts) :] == 7.0).all()
            written(store, before, layer, queries, k, v)


def test_keys_beyond_eight_bits_become_the_end_of_them() -> None:
    shape = replace(WIDE, eight=True)
    store, queries = pool(shape), answers((20,))
    q, k, v = tokens(1, shape)
    k[0, 0, 0], v[0, 1, 3] = 1e6, -1e6
    fixed = Decoding(store, shape.heads, 1, ROOM)
    assert fixed.plan(queries)
    assert torch.isfinite(fixed(0, q, k, v)).all()
    slot = int(queries[0].slots[0, 0, 0])
    assert store.keys[0, 0, slot, 0, 0].float() == 448
    assert store.values[0, 0, slot, 1, 3].float() == -448


@pytest.mark.skipif(INTERPRETED, reason="graphs are of a GPU")
@pytest.mark.parametrize("chained", [False, True])
def test_layers_in_a_graph_give_the_same_each_time_and_follow_their_plan(
    chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "CHAINED", chained)
    store = pool(WIDE)
    fixed = Decoding(store, WIDE.heads, 8, ROOM, replace(ONE_WARP, programs=300))
    given = tokens(8, WIDE)

    def layers() -> Tensor:
        return torch.stack([fixed(layer, *given).clone() for layer in range(LAYERS)])

    layers()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = layers()
    for seed, counts in enumerate(((700, 0, 90), (5,) * 8, (800, 700, 600, 500, 400, 300, 200, 100))):
        queries = answers(counts, seed=seed)
        assert fixed.plan(queries)
        eager = layers()
        for _ in range(20):
            outs.zero_()
            graph.replay()
            assert torch.equal(outs[:, : len(counts)], eager[:, : len(counts)])
        for layer in range(LAYERS):
            near(eager[layer, : len(counts)], exact(store, layer, queries, *given))


@pytest.mark.skipif(INTERPRETED, reason="it takes 9 GB")
def test_a_plane_may_have_more_entries_than_32_bits_count() -> None:
    size = (1, 1, (1 << 31) // 512 + 4_000, 4, 128)
    keys, values = (torch.zeros(size, device=DEVICE, dtype=KIND) for _ in range(2))
    store = KVStore(keys, values, torch.zeros(1, 1, 1))
    slots = np.arange(size[2] - 2_000, size[2] - 1_000, dtype=np.int32)
    for plane in (store.keys, store.values):
        plane[0, 0, -2_000:] = torch.randn(2_000, 4, 128, device=DEVICE, dtype=KIND)
    query = Query(0, 1, np.zeros((3, 1), np.int64), slots[None, None, -1:], (Part(slots[None, None, :-1]),))
    q, k, v = tokens(1, Shape(28, 4, 128))
    fixed = Decoding(store, 28, 1, ROOM)
    assert fixed.plan((query,))
    expected = exact(store, 0, (query,), q, k, v)
    near(fixed(0, q, k, v), expected)
    assert torch.equal(store.keys[0, 0, slots[-1]], k[0])


def _seen(query: Query, **changes: object) -> Query:
    return replace(query, parts=(replace(query.parts[0], **changes),))  # type: ignore[arg-type]


def _differing(slots: Slots) -> Slots:
    return slots + np.arange(LAYERS, dtype=np.int32)[:, None, None]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda query: replace(query, stop=2), id="two tokens"),
        pytest.param(lambda query: _seen(query, turn=3), id="turned"),
        pytest.param(lambda query: _seen(query, biased=True), id="biased"),
        pytest.param(lambda query: _seen(query, slots=_differing(query.parts[0].slots)), id="planes differ"),
        pytest.param(lambda query: replace(query, slots=_differing(query.slots)), id="own slots differ"),
        pytest.param(lambda query: _seen(query, slots=np.zeros((1, 1, 501), np.int32)), id="too long"),
    ],
)
def test_it_is_not_planned_for_what_it_cannot_hold(change: Callable[[Query], Query]) -> None:
    fixed = Decoding(pool(WIDE), WIDE.heads, 4, 500)
    (query,) = answers((40,))
    assert fixed.plan((query,))
    assert not fixed.plan((change(query),))
    assert fixed.plan(answers((100,) * 4))
    assert not fixed.plan(answers((10,) * 5))


def test_it_serves_pools_of_one_group_of_heads_that_it_has_tiles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(groups: int, dim: int) -> KVStore:
        plane = torch.zeros(1, groups, 4, 2, dim)
        return KVStore(plane, plane, torch.zeros(1, groups, 4))

    monkeypatch.setattr(decoding, "hopper", lambda device: True)
    assert [decoding.serves(of(1, dim)) for dim in (64, 96, 128, 256)] == [True, False, True, False]
    assert not decoding.serves(of(2, 128))
    monkeypatch.setattr(decoding, "hopper", lambda device: False)
    assert not decoding.serves(of(1, 128))
