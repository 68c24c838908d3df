"""New keys and values on their way into the pool, in Triton: one kernel for both, whatever they are stored in."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from workers.core import FLOAT8, FLOAT8_MOST
from workers.launches import launched, wait


def store(keys: Tensor, values: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """k and v [n, heads, dim], whose heads lie side by side, to `slots` int64 [n] of planes [slots, heads, dim]."""
    n, size = len(k), k.shape[1] * k.shape[2]
    if n:
        _store[(n,)](
            keys, values, slots, k, v, k.stride(0), v.stride(0), size,
            MOST=FLOAT8_MOST if keys.dtype == FLOAT8 else 0.0, BLOCK=triton.next_power_of_2(size), num_warps=2,
            **launched(k),
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _store(  # type: ignore[no-untyped-def]
    keys, values, slots, k, v, k_stride, v_stride, size,
    MOST: tl.constexpr, BLOCK: tl.constexpr, CHAINED: tl.constexpr
):  # fmt: skip
    if CHAINED:
        wait()
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    place = tl.arange(0, BLOCK)
    inside = place < size
    key = tl.load(k + row * k_stride + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(v + row * v_stride + place, mask=inside, other=0.0).to(tl.float32)
    if MOST > 0:
        key = tl.minimum(tl.maximum(key, -MOST), MOST)
        value = tl.minimum(tl.maximum(value, -MOST), MOST)
    tl.store(keys + slot * size + place, key.to(keys.dtype.element_ty), mask=inside)
    tl.store(values + slot * size + place, value.to(values.dtype.element_ty), mask=inside)
