"""What is done between products: one kernel on a GPU must give what plain torch gives on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.core import FLOAT8, FLOAT8_MOST
from workers.models.fusion import HeadNorms, Rows, Scaled, gated, gated_scaled, normed, rotated, scaled
from workers.models.rope import Rope, rotate

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or find_spec("triton") is None, reason="needs CUDA and Triton"),
]
DEVICES = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.unit), pytest.param("cuda", marks=GPU)]
)
KINDS = pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
SIZES = pytest.mark.parametrize("size", [48, 1280, 3584])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def exact(rows: Rows) -> Tensor:
    """The values that rows stand for, on the CPU."""
    return (rows.values.float() * rows.scale if isinstance(rows, Scaled) else rows.float()).cpu()


def assert_close_in_eight_bits(rows: Rows, expected: Tensor) -> None:
    """Off by no more than half a step, 1/16 of a value, or 1/2**10 of the row's largest where steps no longer shrink.

    A row whose kernel rounds sums in another order may have a value on the other side of a step's middle.
    """
    assert isinstance(rows, Scaled)
    assert rows.values.dtype == FLOAT8
    assert rows.scale.shape == (*rows.values.shape[:-1], 1)
    off = (exact(rows) - expected).abs()
    largest = expected.abs().amax(dim=-1, keepdim=True)
    assert (off <= 1.02 * torch.maximum(expected.abs() / 16, largest / FLOAT8_MOST / 2**10)).all()
    torch.testing.assert_close(rows.scale.cpu(), largest / FLOAT8_MOST, rtol=1e-2, atol=0)


@DEVICES
@KINDS
@SIZES
@torch.inference_mode()
def test_rows_in_eight_bits(device: str, kind: torch.dtype, size: int) -> None:
    """Rows of very different sizes, each keeping its own precision."""
    rows = (torch.randn(3, 5, size) * torch.logspace(-5, 3, 5)[:, None]).to(kind)
    got = scaled(rows.to(device))
    assert_close_in_eight_bits(got, rows.float())
    reference = scaled(rows)
    assert torch.equal(got.scale.cpu(), reference.scale)
    assert torch.equal(got.values.cpu().view(torch.uint8), reference.values.view(torch.uint8))


@DEVICES
@torch.inference_mode()
def test_rows_of_zeros_and_no_rows_in_eight_bits(device: str) -> None:
    rows = torch.zeros(2, 64, device=device)
    assert torch.equal(exact(scaled(rows)), torch.zeros(2, 64))
    empty = scaled(rows[:0])
    assert empty.values.shape == (0, 64)
    assert empty.scale.shape == (0, 1)


@DEVICES
@KINDS
@SIZES
@pytest.mark.parametrize("adds", [False, True])
@torch.inference_mode()
def test_sum_and_norm(device: str, kind: torch.dtype, size: int, adds: bool) -> None:
    x, more = (3 * torch.randn(2, 7, size)).to(kind), torch.randn(2, 7, size).to(kind)
    weight = torch.randn(size).to(kind)
    there = (x.to(device), more.to(device) if adds else None, weight.to(device), 1e-6)
    expected = x + more if adds else x
    expected_norm = F.rms_norm(expected.float(), (size,), weight.float(), 1e-6)
    total, out = normed(*there)
    assert torch.equal(total.cpu(), expected)
    assert isinstance(out, Tensor)
    assert out.dtype == kind
    close = 1e-2 if kind == torch.bfloat16 else 1e-5
    torch.testing.assert_close(exact(out), expected_norm, rtol=close, atol=close)
    total, eight = normed(*there, eight=True)
    assert torch.equal(total.cpu(), expected)
    assert_close_in_eight_bits(eight, exact(out))


@DEVICES
@torch.inference_mode()
def test_sum_and_norm_of_no_rows(device: str) -> None:
    x, weight = torch.ones(0, 64, device=device), torch.ones(64, device=device)
    for eight in (False, True):
        total, out = normed(x, x, weight, 1e-6, eight=eight)
        assert total.shape == exact(out).shape == (0, 64)


@DEVICES
@pytest.mark.parametrize("size", [7, 1500])
@torch.inference_mode()
def test_gates_and_ups_side_by_side(device: str, size: int) -> None:
    pairs = torch.randn(3, 2, 2 * size)
    gate, up = pairs.chunk(2, dim=-1)
    torch.testing.assert_close(gated(pairs.to(device)).cpu(), F.silu(gate) * up)


@DEVICES
@KINDS
@pytest.mark.parametrize("size", [7, 1500, 18_944])
@torch.inference_mode()
def test_gates_and_ups_in_eight_bits(device: str, kind: torch.dtype, size: int) -> None:
    pairs = torch.randn(3, 2, 2 * size).to(kind)
    gate, up = pairs.float().chunk(2, dim=-1)
    there = pairs.to(device)
    assert_close_in_eight_bits(gated_scaled(there), gated(there).float().cpu())
    close = 2e-2 if kind == torch.bfloat16 else 1e-5
    torch.testing.assert_close(gated(there).float().cpu(), F.silu(gate) * up, rtol=close, atol=close)


@DEVICES
@pytest.mark.parametrize(("heads", "dim"), [(6, 16), (3, 80), (32, 128)])
@torch.inference_mode()
def test_turning_vectors_that_lie_among_others(device: str, heads: int, dim: int) -> None:
    """Queries and keys in one tensor with values, two pictures that share one table."""
    rotation = Rope(dim, 1e4).rotation(torch.arange(5).expand(3, -1))
    every = torch.randn(2, 5, heads + 2, dim)
    expected = rotate(every[:, :, :heads], rotation)
    there = every.to(device)
    tables = type(rotation)(*(table.to(device) for table in rotation))
    torch.testing.assert_close(rotated(there[:, :, :heads], tables).cpu(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(there[:, :, heads:].cpu(), every[:, :, heads:])


@DEVICES
@KINDS
@pytest.mark.parametrize("dim", [16, 80, 128])
@torch.inference_mode()
def test_queries_and_keys_are_normalised_each_head_for_itself_before_they_turn(
    device: str, kind: torch.dtype, dim: int
) -> None:
    rotation = Rope(dim, 1e4).rotation(torch.arange(5).expand(3, -1))
    every = (torch.randn(5, 9, dim) * torch.logspace(-1, 1, 9)[:, None]).to(kind)
    query, key = torch.randn(dim).to(kind), torch.randn(dim).to(kind)
    q, k, rest = (part.float() for part in torch.split(every, [6, 2, 1], dim=1))
    heads = (F.rms_norm(q, (dim,), query.float(), 1e-6), F.rms_norm(k, (dim,), key.float(), 1e-6))
    expected = rotate(torch.cat(heads, dim=1), rotation)
    there = every.to(device)
    tables = type(rotation)(*(table.to(device) for table in rotation))
    got = rotated(there[:, :8], tables, HeadNorms(6, query.to(device), key.to(device), 1e-6))
    close = 3e-2 if kind == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.float().cpu(), expected, rtol=close, atol=close)
    assert torch.equal(there[:, 8:].float().cpu(), rest)
