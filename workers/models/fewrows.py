"""Products of few rows with a matrix in half precision, in Triton: as fast as the matrix can be read.

The matrix's tiles, cut into blocks along its rows, are dealt out to the programs in equal runs, so that all processors
read until the end (stream-K, arXiv:2301.03598). A tile that several programs have had a part in is summed up by the
last of them, always in the same order, so that the same rows always give the same.

A tile of a gated layer's matrix is some gates and the ups that go with them, of which whoever completes it writes
silu(gate) * up.

A kernel may start before the one in front of it has ended (programmatic dependent launch): it then asks the cache for
its first weights, which nothing before it writes, and waits only for its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from workers.launches import ahead, done_in_front, launched, start_next
from workers.models.kernels import silu_times

MOST = 64
TILE = 32  # the fewest outputs of one


@dataclass(frozen=True, slots=True)
class Plan:
    """How a matrix is read: tiles of `outputs` rows, blocks of `inputs` of them, by so many programs of so many warps.

    `stages` blocks are on their way at a time, by the copy engine if `bulk`; `early` of them are asked for before the
    kernel in front has ended, `between` of the next tile's while one is completed. The next kernel may start when every
    program has but `left` blocks to go. It is meant for so many `rows` at most.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int
    programs: int
    early: int
    bulk: bool = False
    between: int = 0
    left: int = 1 << 20
    rows: int = MOST

    def fits(self, weight: Tensor) -> bool:
        """Whether a weight [outputs, inputs] is of whole tiles and blocks."""
        return len(weight) % self.outputs == weight.shape[1] % self.inputs == 0


Plans = Mapping[tuple[int, int], tuple[Plan, ...]]  # by outputs and inputs, those for fewer rows first

# How matrices were read fastest on an H100. Whatever is not here is left to cuBLAS.
_WIDE = Plan(outputs=64, inputs=128, warps=4, stages=6, programs=132, early=4)
_HEAD = Plan(outputs=128, inputs=128, warps=8, stages=4, programs=132, early=2)
PLANS: Plans = MappingProxyType(
    {
        (4_608, 3_584): (replace(_WIDE, rows=32), Plan(64, 128, 4, 4, 72, 0, bulk=True, left=4)),
        (3_584, 3_584): (replace(_WIDE, programs=56, rows=32), Plan(64, 128, 4, 4, 112, 4, bulk=True, left=4)),
        (37_888, 3_584): (_WIDE,),
        (3_584, 18_944): (
            Plan(64, 256, 4, 3, 112, 4, bulk=True, rows=32),
            Plan(64, 128, 4, 4, 112, 8, bulk=True, left=4),
        ),
        (152_064, 3_584): (_HEAD,),
    }
)
GATED: Plans = MappingProxyType(  # of gates and ups, one matrix
    {(37_888, 3_584): (replace(_WIDE, rows=32), Plan(64, 256, 4, 3, 132, 2))}
)


def planned(rows: Tensor, weight: Tensor, *, gated: bool = False) -> Plan | None:
    """How to multiply rows [n, inputs] with a weight [outputs, inputs], if this module is to."""
    if not len(rows) or rows.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16:
        return None
    plans = (GATED if gated else PLANS).get((len(weight), weight.shape[1]), ())
    return next((plan for plan in plans if len(rows) <= plan.rows), None)


def product(
    rows: Tensor, weight: Tensor, bias: Tensor | None, arrived: Tensor, plan: Plan, *, gated: bool = False
) -> Tensor:
    """Rows [n, inputs], n up to MOST, times weight [outputs, inputs], plus bias: [n, outputs].

    If `gated`, silu(first half) * second half of that: [n, outputs / 2].
    `arrived`: zeros int32, at least one for each tile, and zeros again afterwards; for one product at a time.
    """
    count, inputs = rows.shape
    outputs, padded = len(weight), max(16, triton.next_power_of_2(count))
    out = rows.new_empty(count, outputs // 2 if gated else outputs)
    sums = rows.new_empty(plan.programs, 2, plan.outputs, padded, dtype=torch.float32)
    bulk = plan.bulk and not gated
    row_blocks = TensorDescriptor.from_tensor(rows, [padded, plan.inputs]) if bulk else None
    weight_blocks = TensorDescriptor.from_tensor(weight, [plan.outputs, plan.inputs]) if bulk else None
    _product[(plan.programs,)](
        rows, weight, row_blocks, weight_blocks, weight if bias is None else bias, out, sums, arrived,
        count, inputs, outputs, plan.early, plan.between, plan.left,
        BIAS=bias is not None, GATED=gated, ROWS=padded, OUTPUTS=plan.outputs, INPUTS=plan.inputs,
        THREADS=32 * plan.warps, num_warps=plan.warps, num_stages=plan.stages, **launched(rows),
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["count", "early", "between", "left"])  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    rows, weight, row_blocks, weight_blocks, bias, out, sums, arrived, count, inputs, outputs, early, between, left,
    BIAS: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    THREADS: tl.constexpr, CHAINED: tl.constexpr
):  # fmt: skip
    WIDE: tl.constexpr = OUTPUTS // 2 if GATED else OUTPUTS
    program, programs = tl.program_id(0), tl.num_programs(0)
    blocks = inputs // INPUTS
    units = outputs // OUTPUTS * blocks
    start, stop = program * units // programs, (program + 1) * units // programs
    row, place, input = tl.arange(0, ROWS), tl.arange(0, OUTPUTS), tl.arange(0, INPUTS)
    output = place % WIDE + place // WIDE * (outputs // 2)
    if CHAINED:
        asked, turn = tl.minimum(stop, start + early), (start // blocks + 1) * blocks
        _ask(weight, output, start, tl.minimum(asked, turn), inputs, WIDE, OUTPUTS, INPUTS, THREADS)
        _ask(weight, output, turn, tl.minimum(asked, turn + blocks), inputs, WIDE, OUTPUTS, INPUTS, THREADS)
        done_in_front()
    leaves = tl.maximum(start, stop - left)
    there = row < count
    mine = rows + row[:, None] * inputs + input[None, :]
    for tile in tl.range(start // blocks, (stop + blocks - 1) // blocks, num_stages=1):
        matrix = weight + (tile * WIDE + output[:, None]).to(tl.int64) * inputs + input[None, :]
        total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
        for block in range(tl.maximum(start - tile * blocks, 0), tl.minimum(stop - tile * blocks, blocks)):
            if weight_blocks is None:
                weights = tl.load(matrix + block * INPUTS)
                here = tl.load(mine + block * INPUTS, mask=there[:, None], other=0.0)
            else:
                weights = weight_blocks.load([tile * OUTPUTS, block * INPUTS])
                here = row_blocks.load([0, block * INPUTS])
            total = tl.dot(weights, here.T, total)
            if CHAINED:
                if tile * blocks + block == leaves:
                    start_next()
        if CHAINED:
            turn = (tile + 1) * blocks
            _ask(weight, output, turn, tl.minimum(stop, turn + between), inputs, WIDE, OUTPUTS, INPUTS, THREADS)
        first = ((tile * blocks + 1) * programs - 1) // units
        last = ((tile + 1) * blocks * programs - 1) // units
        whole = first == last
        if not whole:
            part = place[:, None] * ROWS + row[None, :]
            tl.store(sums + (2 * program + (program == first)) * OUTPUTS * ROWS + part, total)
            tl.debug_barrier()
            whole = tl.atomic_add(arrived + tile, 1) == last - first
            if whole:
                total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
                for of in tl.range(first, last + 1, num_stages=1, loop_unroll_factor=4):
                    total += tl.load(sums + (2 * of + (of == first)) * OUTPUTS * ROWS + part, cache_modifier=".cg")
                tl.store(arrived + tile, 0)
        if whole:
            if BIAS:
                total += tl.load(bias + tile * WIDE + output).to(tl.float32)[:, None]
            values, width = total.to(out.dtype.element_ty), outputs
            if GATED:
                gate, up = values.reshape(2, WIDE, ROWS).permute(1, 2, 0).split()
                values, width = silu_times(gate, up), outputs // 2
            target = out + row[None, :] * width + (tile * WIDE + tl.arange(0, WIDE))[:, None]
            tl.store(target, values, mask=there[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _ask(  # type: ignore[no-untyped-def]
    weight, output, start, stop, inputs,
    WIDE: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, THREADS: tl.constexpr
):  # fmt: skip
    """Brings blocks [start, stop) of one tile into the cache, each thread a run of its own."""
    EACH: tl.constexpr = THREADS // OUTPUTS
    blocks = inputs // INPUTS
    count = (stop - start) * INPUTS // EACH
    if count > 0:
        row, part = start // blocks * WIDE + output[:, None], tl.arange(0, EACH)[None, :]
        ahead(weight + row.to(tl.int64) * inputs + (start % blocks * INPUTS + part * count), count * 2)
