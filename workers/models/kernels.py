"""Element-wise work between matrix products as one kernel each, in Triton, for inference on CUDA."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gates and ups side by side, [..., 2 * size] to [..., size]."""
    size = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], size)
    rows = out.numel() // size
    if rows:
        _swiglu[(rows, triton.cdiv(size, _BLOCK))](gate_up, out, size, BLOCK=_BLOCK)
    return out


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turns vectors [rows, heads, dim] in place, dim being dense, row r by row r % len(cos) of tables [n, dim]."""
    rows, heads, dim = vectors.shape
    if rows:
        _rotate[(rows, triton.cdiv(heads, 4))](
            vectors, cos, sin, len(cos), heads, dim // 2, vectors.stride(0), vectors.stride(1),
            HEADS=4, HALF=triton.next_power_of_2(dim // 2), num_warps=2,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(gate_up, out, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    gate = tl.load(gate_up + row * 2 * size + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + place, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(vectors, cos, sin, table, heads, half, row_stride, head_stride, HEADS: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    place = tl.arange(0, HALF)
    turned = place < half
    angle = (row % table) * 2 * half + place
    c = tl.load(cos + angle, mask=turned, other=1.0)[None, :]
    s = tl.load(sin + angle + half, mask=turned, other=0.0)[None, :]
    first = vectors + row * row_stride + head[:, None] * head_stride + place[None, :]
    inside = (head < heads)[:, None] & turned[None, :]
    x = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(first, (x * c - y * s).to(vectors.dtype.element_ty), mask=inside)
    tl.store(first + half, (y * c + x * s).to(vectors.dtype.element_ty), mask=inside)
