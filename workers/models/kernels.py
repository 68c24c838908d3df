"""Element-wise work between matrix products as one kernel each, in Triton, for inference on CUDA.

What each must give is what `fusion` computes in plain torch: rows are rounded to their own precision before they are
scaled to eight bits, so that fusing changes nothing but the order of sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.core import FLOAT8_MOST
from workers.launches import launched, wait
from workers.models.fusion import HeadNorms

_BLOCK = 1024
_SMALLEST: tl.constexpr = tl.constexpr(1e-12)
_LARGEST: tl.constexpr = tl.constexpr(FLOAT8_MOST)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gates and ups side by side, [..., 2 * size] to [..., size]."""
    size = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], size)
    rows = out.numel() // size
    if rows:
        _swiglu[(rows, triton.cdiv(size, _BLOCK))](gate_up, out, size, BLOCK=_BLOCK, **launched(out))
    return out


def swiglu_scaled(gate_up: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same in eight bits: values [..., size] and float32 scales [..., 1]."""
    size = gate_up.shape[-1] // 2
    values, scale = _scaled_like(gate_up, size, kind)
    if scale.numel():
        block = triton.next_power_of_2(size)
        _swiglu_scaled[(scale.numel(),)](gate_up, values, scale, size, BLOCK=block, num_warps=_warps(block))
    return values, scale


def scaled(rows: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows [..., size] in eight bits: values and float32 scales [..., 1]."""
    rows = rows.contiguous()
    size = rows.shape[-1]
    values, scale = _scaled_like(rows, size, kind)
    if scale.numel():
        block = triton.next_power_of_2(size)
        _scaled[(scale.numel(),)](rows, values, scale, size, BLOCK=block, num_warps=_warps(block))
    return values, scale


def norm(x: Tensor, more: Tensor | None, weight: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, ...]:
    """x + more (or x) [..., size], that normalised in `kind`, and if that is not x's own, float32 scales [..., 1]."""
    x = x.contiguous()
    size, eight = x.shape[-1], kind != x.dtype
    total = x if more is None else torch.empty_like(x)
    values, scale = _scaled_like(x, size, kind) if eight else (torch.empty_like(x), x)
    rows = x.numel() // size
    if rows:
        block = triton.next_power_of_2(size)
        _norm[(rows,)](
            x, x if more is None else more.contiguous(), weight, total, values, scale, size, eps,
            ADDS=more is not None, EIGHT=eight, BLOCK=block, num_warps=_warps(block), **launched(x),
        )  # fmt: skip
    return (total, values, scale) if eight else (total, values)


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None = None) -> None:
    """Turns vectors [rows, heads, dim] in place, dim being dense, row r by row r % len(cos) of tables [n, dim].

    With `norms` each head is normalised first.
    """
    rows, heads, dim = vectors.shape
    queries, query, key, eps = (0, cos, cos, 0.0) if norms is None else norms
    if rows:
        _rotate[(rows, triton.cdiv(heads, 4))](
            vectors, cos, sin, len(cos), heads, dim // 2, vectors.stride(0), vectors.stride(1),
            query, key, queries, eps, NORMS=norms is not None,
            HEADS=4, HALF=triton.next_power_of_2(dim // 2), num_warps=2, **launched(vectors),
        )  # fmt: skip


def _scaled_like(rows: Tensor, size: int, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = rows.shape[:-1]
    return rows.new_empty(*shape, size, dtype=kind), rows.new_empty(*shape, 1, dtype=torch.float32)


def _warps(block: int) -> int:
    """Warps for a row that is held in registers: 16 values a thread, more in the longest."""
    return min(max(block // 512, 1), 32)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(gate_up, out, size, BLOCK: tl.constexpr, CHAINED: tl.constexpr):  # type: ignore[no-untyped-def]
    if CHAINED:
        wait()
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    gate = tl.load(gate_up + row * 2 * size + place, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * size + size + place, mask=inside, other=0.0)
    tl.store(out + row * size + place, silu_times(gate, up), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_scaled(gate_up, values, scales, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < size
    gate = tl.load(gate_up + row * 2 * size + place, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * size + size + place, mask=inside, other=0.0)
    _put_scaled(values, scales, silu_times(gate, up), row, size, place, inside)


@triton.jit
def silu_times(gate, up):  # type: ignore[no-untyped-def]
    """silu(gate) * up, computed in float32, in their own precision."""
    exact = gate.to(tl.float32)
    return (exact * tl.sigmoid(exact) * up.to(tl.float32)).to(gate.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _scaled(rows, values, scales, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < size
    _put_scaled(values, scales, tl.load(rows + row * size + place, mask=inside, other=0.0), row, size, place, inside)


@triton.jit  # type: ignore[untyped-decorator]
def _norm(  # type: ignore[no-untyped-def]
    x, more, weight, total, values, scales, size, eps,
    ADDS: tl.constexpr, EIGHT: tl.constexpr, BLOCK: tl.constexpr, CHAINED: tl.constexpr
):  # fmt: skip
    if CHAINED:
        wait()
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < size
    here = tl.load(x + row * size + place, mask=inside, other=0.0)
    if ADDS:
        added = tl.load(more + row * size + place, mask=inside, other=0.0)
        here = (here.to(tl.float32) + added.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + row * size + place, here, mask=inside)
    exact = here.to(tl.float32)
    root = tl.rsqrt(tl.sum(exact * exact, axis=0) / size + eps)
    out = exact * root * tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    out = out.to(total.dtype.element_ty)
    if EIGHT:
        _put_scaled(values, scales, out, row, size, place, inside)
    else:
        tl.store(values + row * size + place, out, mask=inside)


@triton.jit
def _put_scaled(values, scales, out, row, size, place, inside):  # type: ignore[no-untyped-def]
    exact = out.to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(exact), axis=0), _SMALLEST) * (1 / _LARGEST)
    tl.store(scales + row, scale)
    tl.store(values + row * size + place, (exact * tl.div_rn(1.0, scale)).to(values.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    vectors, cos, sin, table, heads, half, row_stride, head_stride, query, key, queries, eps,
    NORMS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, CHAINED: tl.constexpr
):  # fmt: skip
    if CHAINED:
        wait()
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
    if NORMS:
        weights = tl.where((head < queries)[:, None], query, key) + place[None, :]
        root = tl.rsqrt((tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)) / (2 * half) + eps)[:, None]
        x = (x * root * tl.load(weights, mask=inside, other=0.0).to(tl.float32)).to(vectors.dtype.element_ty)
        y = (y * root * tl.load(weights + half, mask=inside, other=0.0).to(tl.float32)).to(vectors.dtype.element_ty)
        x, y = x.to(tl.float32), y.to(tl.float32)
    tl.store(first, (x * c - y * s).to(vectors.dtype.element_ty), mask=inside)
    tl.store(first + half, (y * c + x * s).to(vectors.dtype.element_ty), mask=inside)
