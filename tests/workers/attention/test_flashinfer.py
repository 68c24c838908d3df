"""Attention through FlashInfer's wrapper against the reference, over the same pages.

On a GPU with FlashInfer's kernels, in bfloat16; without one with a stand-in that keeps to the wrapper's contract.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.attention.paged import PagedReference
from workers.attention.choice import attention_for
from workers.attention.flashinfer import FlashInferAttention
from workers.attention.plain import PlainAttention
from workers.core import KVStore, Part, Query
from workers.models.rope import Rope, rotate

pytestmark = pytest.mark.unit

HEADS, KV_HEADS, DIM, PAGE, PAGES, LAYERS = 8, 2, 64, 4, 80, 2
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, GPU])])
KERNELS = pytest.mark.parametrize(  # heads of 64 and of 128 have kernels of their own
    ("device", "dim"), [("cpu", 64), *(pytest.param("cuda", dim, marks=[pytest.mark.gpu, GPU]) for dim in (64, 128))]
)


def turn(vectors: Tensor, by: Tensor) -> Tensor:
    return rotate(vectors, Rope(vectors.shape[-1], 100.0).rotation(by.expand(3, -1)))


def stores(groups: int, device: str, dim: int = DIM) -> tuple[KVStore, KVStore]:
    """The same pool for the reference, on the CPU in float32, and for what is tested: on a GPU in bfloat16."""
    planes = (LAYERS, groups, PAGES * PAGE)
    keys, values = (torch.randn(*planes, KV_HEADS // groups, dim).bfloat16() for _ in range(2))
    bias = torch.zeros(planes)
    bias[:, :, : 2 * PAGE] = torch.tensor([math.log(3), -math.inf, 0, 0] * 2)
    here = KVStore(keys.float(), values.float(), bias)
    return here, KVStore(placed(here.keys, device), placed(here.values, device), bias.clone().to(device))


def placed(x: Tensor, device: str) -> Tensor:
    return x.clone() if device == "cpu" else x.to(device, torch.bfloat16)


def attention(store: KVStore, device: str) -> FlashInferAttention:
    return FlashInferAttention(store, turn, HEADS, PagedReference if device == "cpu" else None)


def close(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-5 if ours.dtype == torch.float32 else 0.02
    torch.testing.assert_close(ours.float().cpu(), theirs, atol=tolerance, rtol=tolerance)


def part(pages: list[int], filled: list[int], groups: int, *, planes_differ: bool = False, **changes: int) -> Part:
    table = np.broadcast_to(np.array(pages, np.int32), (LAYERS, groups, len(pages))).copy()
    if planes_differ:
        table += np.arange(LAYERS * groups, dtype=np.int32).reshape(LAYERS, groups, 1)
    return Part(table, np.array(filled, np.int32), PAGE, **changes)  # type: ignore[arg-type]


def batch(groups: int, *, apart: bool, planes_differ: bool = False) -> tuple[Query, ...]:
    """Two running answers, a frame, a question and an answer, some of which see parts that are turned or biased."""
    stored = [part([9, 4, 30], [4, 3, 4], groups, planes_differ=planes_differ), part([40], [2], groups)]
    more = [part([0, 1], [4, 4], groups, biased=True), part([20, 24], [4, 1], groups, turn=37)] if apart else []
    also = [part([28], [4], groups, turn=5)] if apart else []
    sights = [(*stored, *more), (stored[0], *also), tuple(stored), (*more, *also), (stored[1],)]
    queries, start, slot = [], 0, 200
    for count, parts in zip((1, 1, 70, 3, 1), sights, strict=True):
        slots = np.broadcast_to(np.arange(slot, slot + count), (LAYERS, groups, count)).copy()
        queries.append(Query(start, start + count, np.zeros((3, count), np.int64), slots, parts))
        start, slot = start + count, slot + count
    return tuple(queries)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def inputs(rows: int, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(rows, heads, dim).bfloat16().float() for heads in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v


@KERNELS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("apart", [False, True], ids=["as stored", "turned and biased"])
@pytest.mark.parametrize("planes_differ", [False, True], ids=["planes alike", "planes differ"])
@torch.inference_mode()
def test_mixed_batches_equal_the_reference(
    device: str, dim: int, groups: int, apart: bool, planes_differ: bool
) -> None:
    here, there = stores(groups, device, dim)
    queries = batch(groups, apart=apart, planes_differ=planes_differ)
    ours = attention(there, device).plan(queries)
    theirs = PlainAttention(here, turn).plan(queries)
    for layer in range(LAYERS):
        q, k, v = inputs(queries[-1].stop, dim)
        close(ours(layer, *(placed(x, device) for x in (q, k, v))), theirs(layer, q, k, v))
        torch.testing.assert_close(there.keys.float().cpu(), here.keys)
        torch.testing.assert_close(there.values.float().cpu(), here.values)


@DEVICES
@torch.inference_mode()
def test_fixed_batches_equal_the_reference_from_one_plan_to_the_next(device: str) -> None:
    here, there = stores(1, device)
    fixed = attention(there, device).fixed(4, 256, spare=PAGE * PAGES - 1)
    reference = PlainAttention(here, turn)
    for pages in ([9, 4, 30], [7], [50, 3, 2, 1]):
        queries = tuple(
            Query(row, row + 1, np.zeros((3, 1), np.int64), np.full((LAYERS, 1, 1), 220 + row), (seen,))
            for row, seen in enumerate((part(pages, [4] * len(pages), 1), part([12], [3], 1)))
        )
        assert fixed.admits(queries)
        fixed.plan(queries)
        q, k, v = inputs(4)
        out = fixed(1, *(placed(x, device) for x in (q, k, v)))[:2]
        close(out, reference.plan(queries)(1, q[:2], k[:2], v[:2]))
        torch.testing.assert_close(there.keys.float().cpu()[:, :, :-1], here.keys[:, :, :-1])


def test_what_a_graph_cannot_hold_is_not_admitted() -> None:
    _, there = stores(1, "cpu")
    fixed = attention(there, "cpu").fixed(4, 16, spare=0)
    for queries in (
        batch(1, apart=False),
        batch(1, apart=True)[:2],
        batch(1, apart=False, planes_differ=True)[:1],
        batch(1, apart=False)[:2],
    ):
        assert not fixed.admits(queries)


def test_the_pool_decides_which_implementation_serves_it() -> None:
    here, _ = stores(1, "cpu")
    assert isinstance(attention_for(here, turn, HEADS), PlainAttention)


@pytest.mark.gpu
@GPU
def test_half_precision_on_a_gpu_is_for_flashinfer() -> None:
    _, there = stores(1, "cuda")
    assert isinstance(attention_for(there, turn, HEADS), FlashInferAttention)
    full = KVStore(there.keys.float(), there.values.float(), there.bias)
    assert isinstance(attention_for(full, turn, HEADS), PlainAttention)
