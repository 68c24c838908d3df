"""Attention through FlashInfer's wrapper against the reference, over the same pages.

On a GPU with FlashInfer's kernels, in bfloat16; without one with a stand-in that keeps to the wrapper's contract.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.attention.paged import PagedReference, slots_in
from workers.attention.choice import attention_for
from workers.attention.flashinfer import FixedAttention, FlashInferAttention
from workers.attention.plain import PlainAttention
from workers.core import FLOAT8, Attend, KVStore, Part, Query, indexed, narrowed
from workers.models.capture import Captured
from workers.models.rope import Rope, rotate

pytestmark = pytest.mark.unit

HEADS, KV_HEADS, DIM, PAGE, PAGES, LAYERS = 8, 2, 64, 4, 80, 2
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
STORED = pytest.mark.parametrize(  # heads of 64 and of 128 have kernels of their own, and so have eight bits
    ("device", "dim", "eight"),
    [
        ("cpu", 64, False),
        ("cpu", 64, True),
        *(
            pytest.param("cuda", dim, eight, marks=[pytest.mark.gpu, GPU])
            for dim, eight in ((64, False), (128, False), (128, True))
        ),
    ],
)


def turn(vectors: Tensor, by: Tensor) -> Tensor:
    return rotate(vectors, Rope(vectors.shape[-1], 100.0).rotation(by.expand(3, -1)))


def pools(groups: int, device: str, dim: int = DIM, *, eight: bool = False) -> tuple[KVStore, KVStore]:
    """The same pool for the reference, on the CPU in float32, and for what is tested: on a GPU in bfloat16.

    With `eight`, both are stored in eight bits.
    """
    planes = (LAYERS, groups, PAGES * PAGE)
    keys, values = (torch.randn(*planes, KV_HEADS // groups, dim).bfloat16() for _ in range(2))
    bias = torch.zeros(planes)
    bias[:, :, : 2 * PAGE] = torch.tensor([math.log(3), -math.inf, 0, 0] * 2)
    here = KVStore(keys.float(), values.float(), bias)
    there = KVStore(placed(here.keys, device), placed(here.values, device), bias.clone().to(device))
    return (eight_bits(here), eight_bits(there)) if eight else (here, there)


def eight_bits(store: KVStore) -> KVStore:
    """The same pool with keys and values in eight bits."""
    keys, values = (narrowed(x, FLOAT8) for x in (store.keys, store.values))
    return KVStore(keys, values, store.bias, wide=store.keys.dtype)


def same_bits(ours: KVStore, theirs: KVStore, stop: int | None = None) -> None:
    for x, y in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
        x, y = (indexed(each)[:, :, :stop].cpu() for each in (x, y))
        torch.testing.assert_close(x.to(y.dtype), y, atol=0, rtol=0)


def placed(x: Tensor, device: str) -> Tensor:
    return x.clone() if device == "cpu" else x.to(device, torch.bfloat16)


def attention(store: KVStore, device: str) -> FlashInferAttention:
    return FlashInferAttention(store, turn, HEADS, PagedReference if device == "cpu" else None)


def captured(fixed: Attend, rows: int, device: str, dim: int) -> Attend:
    """Its layers as graphs on a GPU, in which its first plan must be the last that it needs to know of."""
    if device == "cpu":
        return fixed
    given = [
        torch.zeros(rows, heads, dim, dtype=torch.bfloat16, device=device) for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    graphs = [
        Captured(lambda layer=layer: fixed(layer, *given), torch.device(device))  # type: ignore[misc]
        for layer in range(LAYERS)
    ]

    def run(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for into, values in zip(given, (q, k, v), strict=True):
            into.copy_(values)
        return graphs[layer].replay()

    return run


def close(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-5 if ours.dtype == torch.float32 else 0.02
    torch.testing.assert_close(ours.float().cpu(), theirs, atol=tolerance, rtol=tolerance)


def part(pages: list[int], filled: list[int], groups: int, *, planes_differ: bool = False, **changes: int) -> Part:
    table = np.array([[pages]], np.int32)
    if planes_differ:
        table = table + np.arange(LAYERS * groups, dtype=np.int32).reshape(LAYERS, groups, 1)
    return Part(slots_in(table, filled, PAGE), **changes)  # type: ignore[arg-type]


def batch(groups: int, *, apart: bool, planes_differ: bool = False) -> tuple[Query, ...]:
    """Two running answers, a frame, a question and an answer, some of which see parts that are turned or biased."""
    stored = [part([9, 4, 30], [4, 3, 4], groups, planes_differ=planes_differ), part([40], [2], groups)]
    more = [part([0, 1], [4, 4], groups, biased=True), part([20, 24], [4, 1], groups, turn=37)] if apart else []
    also = [part([28], [4], groups, turn=5)] if apart else []
    sights = [(*stored, *more), (stored[0], *also), tuple(stored), (*more, *also), (stored[1],)]
    queries, start, slot = [], 0, 200
    for count, parts in zip((1, 1, 70, 3, 1), sights, strict=True):
        slots = np.arange(slot, slot + count, dtype=np.int32).reshape(1, 1, count)
        queries.append(Query(start, start + count, np.zeros((3, count), np.int64), slots, parts))
        start, slot = start + count, slot + count
    return tuple(queries)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def inputs(rows: int, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(rows, heads, dim).bfloat16().float() for heads in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v


@STORED
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("apart", [False, True], ids=["as stored", "turned and biased"])
@pytest.mark.parametrize("planes_differ", [False, True], ids=["planes alike", "planes differ"])
@torch.inference_mode()
def test_mixed_batches_equal_the_reference(
    device: str, dim: int, eight: bool, groups: int, apart: bool, planes_differ: bool
) -> None:
    here, there = pools(groups, device, dim, eight=eight)
    queries = batch(groups, apart=apart, planes_differ=planes_differ)
    ours = attention(there, device).plan(queries)
    theirs = PlainAttention(here, turn).plan(queries)
    for layer in range(LAYERS):
        q, k, v = inputs(queries[-1].stop, dim)
        close(ours(layer, *(placed(x, device) for x in (q, k, v))), theirs(layer, q, k, v))
        same_bits(there, here)


@STORED
@torch.inference_mode()
def test_fixed_batches_equal_the_reference_from_one_plan_to_the_next(device: str, dim: int, eight: bool) -> None:
    here, there = pools(1, device, dim, eight=eight)
    fixed = attention(there, device).fixed(4, 4, 256, spare=PAGE * PAGES - 1)
    run = captured(fixed, 4, device, dim)
    reference = PlainAttention(here, turn)
    for pages in ([9, 4, 30], [7], [50, 3, 2, 1]):
        queries = tuple(
            Query(row, row + 1, np.zeros((3, 1), np.int64), np.full((1, 1, 1), 220 + row, np.int32), (seen,))
            for row, seen in enumerate((part(pages, [4] * len(pages), 1), part([12], [3], 1)))
        )
        q, k, v = inputs(4, dim)
        assert fixed.plan(queries)
        out = run(1, *(placed(x, device) for x in (q, k, v)))[:2]
        close(out, reference.plan(queries)(1, q[:2], k[:2], v[:2]))
        same_bits(there, here, stop=-1)


@STORED
@pytest.mark.parametrize("groups", [1, 2])
@torch.inference_mode()
def test_fixed_passes_equal_the_reference_from_one_plan_to_the_next(
    device: str, dim: int, eight: bool, groups: int
) -> None:
    """Frames, questions and answers of fewer sequences and tokens than there is room for; then others."""
    here, there = pools(groups, device, dim, eight=eight)
    fixed = attention(there, device).fixed(8, 96, 1024, spare=PAGE * PAGES - 1)
    run = captured(fixed, 96, device, dim)
    mixed = batch(groups, apart=False)
    for queries in (mixed, mixed[:1], mixed[:3], mixed):
        assert fixed.plan(queries)
        rows = queries[-1].stop
        q, k, v = inputs(96, dim)
        for layer in range(LAYERS):
            out = run(layer, *(placed(x, device) for x in (q, k, v)))
            theirs = PlainAttention(here, turn).plan(queries)(layer, q[:rows], k[:rows], v[:rows])
            close(out[:rows], theirs)
            assert torch.isfinite(out).all()
        same_bits(there, here, stop=-1)


@STORED
@torch.inference_mode()
def test_mixed_passes_equal_the_reference_from_one_plan_to_the_next(device: str, dim: int, eight: bool) -> None:
    """Single tokens, and frames and questions behind a gap, in graphs of two sizes that share what they are planned by.

    The second pass has no single tokens, the last no more than one sequence.
    """
    here, there = pools(1, device, dim, eight=eight)
    ours, spare, more = attention(there, device), PAGE * PAGES - 1, batch(1, apart=False)
    singles, others = [more[0], more[1], more[4]], [more[2], more[3]]
    passes, runs, behind = {}, {}, {4: 94, 8: 92}
    for first, queries in ((4, [*singles, *others]), (8, others), (8, [*singles[:2], others[0]]), (4, others[1:])):
        if first not in passes:  # while another is in use: to capture it must leave alone what that has written
            passes[first] = ours.mixed(first, behind[first], 4, 96, spare)
            runs[first] = captured(passes[first], first + behind[first], device, dim)
            runs[first](0, *(placed(x, device) for x in inputs(first + behind[first], dim)))
            same_bits(there, here, stop=-1)
        packed = follow_each_other(queries)
        assert passes[first].plan(packed)
        alone = sum(query.stop - query.start == 1 for query in packed)
        places = torch.arange(packed[-1].stop)
        places[alone:] += first - alone
        q, k, v = inputs(first + behind[first], dim)
        for layer in range(LAYERS):
            out = runs[first](layer, *(placed(x, device) for x in (q, k, v)))
            theirs = PlainAttention(here, turn).plan(packed)(layer, q[places], k[places], v[places])
            close(out[places.to(out.device)], theirs)
            assert torch.isfinite(out).all()
        same_bits(there, here, stop=-1)
    assert not passes[4].plan(follow_each_other([*more[:1] * 5, *others]))  # five single tokens
    assert not passes[8].plan(batch(1, apart=True))


def follow_each_other(queries: Sequence[Query]) -> tuple[Query, ...]:
    """The same in rows that begin with 0."""
    stops = np.cumsum([query.stop - query.start for query in queries]).tolist()
    return tuple(
        replace(query, start=stop - (query.stop - query.start), stop=stop)
        for query, stop in zip(queries, stops, strict=True)
    )


def test_a_graph_is_not_planned_for_what_it_cannot_hold() -> None:
    _, there = pools(1, "cpu")
    fixed = attention(there, "cpu").fixed(4, 80, 90, spare=0)
    mixed = batch(1, apart=False)
    assert fixed.plan(mixed[:2])
    for queries in (
        mixed,  # five sequences
        mixed[:4],  # 75 tokens and what they see are more than 90 slots
        batch(1, apart=True)[:2],
        batch(1, apart=False, planes_differ=True)[:1],
    ):
        assert not fixed.plan(queries)
    assert not attention(there, "cpu").fixed(4, 16, 1024, spare=0).plan(mixed[:3])  # 72 tokens


@torch.inference_mode()
def test_eight_bits_cost_little_and_end_where_they_end() -> None:
    exact, _ = pools(1, "cpu")
    rounded = eight_bits(KVStore(exact.keys.clone(), exact.values.clone(), exact.bias.clone()))
    queries = batch(1, apart=False)
    q, k, v = inputs(queries[-1].stop)
    k[0, 0, 0] = 1e6
    ours, theirs = (PlainAttention(store, turn).plan(queries)(0, q, k.clone(), v) for store in (rounded, exact))
    assert rounded.keys[0, 0, 200, 0, 0].float() == 448
    off = (ours[1:] - theirs[1:]).norm() / theirs[1:].norm()
    assert 0 < off < 0.05


def test_the_pool_decides_which_implementation_serves_it() -> None:
    here, _ = pools(1, "cpu")
    assert isinstance(attention_for(here, turn, HEADS), PlainAttention)


@pytest.mark.gpu
@GPU
def test_half_precision_on_a_gpu_is_for_flashinfer() -> None:
    _, there = pools(1, "cuda")
    assert isinstance(attention_for(there, turn, HEADS), FlashInferAttention)
    full = KVStore(there.keys.float(), there.values.float(), there.bias)
    assert isinstance(attention_for(full, turn, HEADS), PlainAttention)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs Hopper"
)
def test_single_tokens_have_a_kernel_of_their_own_on_hopper() -> None:
    from workers.attention.decoding import Decoding

    _, there = pools(1, "cuda", 128)
    _, divided = pools(2, "cuda", 128)
    assert isinstance(attention(there, "cuda").fixed(4, 4, 256, spare=0), Decoding)
    assert isinstance(attention(there, "cuda").fixed(4, 16, 256, spare=0), FixedAttention)
    assert isinstance(attention(divided, "cuda").fixed(4, 4, 256, spare=0), FixedAttention)
