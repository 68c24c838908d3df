"""What layers owe to speed: nothing of it may change what comes out."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from workers.models.layers import SwiGLU, gated, rotated
from workers.models.rope import Rope, rotate

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or find_spec("triton") is None, reason="needs CUDA and Triton"),
]
DEVICES = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.unit), pytest.param("cuda", marks=GPU)]
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.unit
@pytest.mark.parametrize("bias", [False, True])
def test_a_padded_layer_gives_the_same(bias: bool) -> None:
    layer, x = SwiGLU(16, 36, bias=bias), torch.randn(5, 16)
    with torch.no_grad():
        expected = layer(x)
        for _ in range(2):
            layer.pad(64)
            torch.testing.assert_close(layer(x), expected)
    assert layer.down_proj.weight.shape == (16, 64)
    assert layer.gate_up_proj.weight.shape == (128, 16)


@DEVICES
@pytest.mark.parametrize("size", [7, 1500])
@torch.inference_mode()
def test_gates_and_ups_side_by_side(device: str, size: int) -> None:
    pairs = torch.randn(3, 2, 2 * size)
    gate, up = pairs.chunk(2, dim=-1)
    torch.testing.assert_close(gated(pairs.to(device)).cpu(), F.silu(gate) * up)


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
