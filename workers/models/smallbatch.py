"""Products of few rows with a matrix in eight bits, in Triton: as fast as the matrix can be read.

A row's sum is divided among several programs where the matrix alone makes too few of them; their parts are summed up
in order, so that the same rows always give the same.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 64
_OUTPUTS, _INPUTS = 64, 256  # of a tile
_PROGRAMS = 250  # that keep enough reads under way
_PARTS = 8


def fits(rows: int, inputs: int, outputs: int) -> bool:
    """Whether there are so few rows, and the matrix is of whole tiles."""
    return rows <= MOST and inputs % _INPUTS == outputs % _OUTPUTS == 0


def product(
    rows: Tensor, scale: Tensor, weight: Tensor, weights_scale: Tensor, bias: Tensor | None, kind: torch.dtype
) -> Tensor:
    """Rows [n, inputs] times weight [outputs, inputs], each of both by its scale, plus bias, in `kind`."""
    count, inputs = rows.shape
    outputs = len(weight)
    padded = max(16, triton.next_power_of_2(count))
    block = _INPUTS if padded <= MOST // 2 else _INPUTS // 2
    tiles, blocks = outputs // _OUTPUTS, inputs // block
    parts = min(max(1, round(_PROGRAMS / tiles)), _PARTS, blocks)
    sums = rows.new_empty(parts, count, outputs, dtype=torch.float32 if parts > 1 else kind)
    _product[(tiles, parts)](
        rows, scale, weight, weights_scale, weight if bias is None else bias, sums, count, inputs, outputs,
        triton.cdiv(blocks, parts), BIAS=bias is not None, WHOLE=parts == 1,
        ROWS=padded, OUTPUTS=_OUTPUTS, INPUTS=block, num_warps=4, num_stages=4,
    )  # fmt: skip
    if parts == 1:
        return sums[0]
    out = rows.new_empty(count, outputs, dtype=kind)
    _sum[(count, triton.cdiv(outputs, 512))](
        sums, scale, weights_scale, weight if bias is None else bias, out, parts, count, outputs,
        BIAS=bias is not None, BLOCK=512, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    rows, scale, weight, weights_scale, bias, sums, count, inputs, outputs, blocks,
    BIAS: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    part = tl.program_id(1)
    row, output = tl.arange(0, ROWS), tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first = part * blocks * INPUTS
    last = tl.minimum(first + blocks * INPUTS, inputs)
    there = (row < count)[:, None]
    place = tl.arange(0, INPUTS)
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for start in range(first, last, INPUTS):
        matrix = tl.load(weight + output[:, None].to(tl.int64) * inputs + (start + place)[None, :])
        mine = tl.load(rows + row[:, None] * inputs + (start + place)[None, :], mask=there, other=0.0)
        total = tl.dot(matrix, mine.T, total)
    into = row[None, :] * outputs + output[:, None]
    inside = (row < count)[None, :]
    if WHOLE:
        total *= tl.load(weights_scale + output)[:, None] * tl.load(scale + row, mask=row < count, other=0.0)[None, :]
        if BIAS:
            total += tl.load(bias + output).to(tl.float32)[:, None]
        tl.store(sums + into, total.to(sums.dtype.element_ty), mask=inside)
    else:
        tl.store(sums + part * count * outputs + into, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _sum(  # type: ignore[no-untyped-def]
    sums, scale, weights_scale, bias, out, parts, count, outputs, BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < outputs
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(parts):
        total += tl.load(sums + (part * count + row) * outputs + place, mask=inside, other=0.0)
    total *= tl.load(weights_scale + place, mask=inside, other=0.0) * tl.load(scale + row)
    if BIAS:
        total += tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * outputs + place, total.to(out.dtype.element_ty), mask=inside)
