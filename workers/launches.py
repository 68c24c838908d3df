"""Kernels in Triton that start before the one in front of them has ended (programmatic dependent launch, Hopper).

Each of them lets the next start as soon as all of its programs have, or are near their ends, and waits for the one in
front before it reads what that has written, or writes anything.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_HOPPER = (9, 0)
CHAINED = True


def launched(on: Tensor) -> dict[str, bool]:
    """Options of a kernel's launch: whether it calls `wait`, and so may start early."""
    chained = CHAINED and on.is_cuda and capability(on.device) >= _HOPPER
    return {"CHAINED": True, "launch_pdl": True} if chained else {"CHAINED": False}


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """What a GPU can do, as NVIDIA numbers it."""
    return torch.cuda.get_device_capability(device)


def hopper(device: torch.device) -> bool:
    """Whether a GPU is one of those that kernels' sizes were chosen on."""
    return capability(device) == _HOPPER


@triton.jit
def wait():  # type: ignore[no-untyped-def]
    """Until all that kernels in front have written can be read; the next one may start meanwhile."""
    start_next()
    done_in_front()


@triton.jit
def start_next():  # type: ignore[no-untyped-def]
    """The next kernel may start once every program has said so or ended."""
    gdc_launch_dependents()


@triton.jit
def done_in_front():  # type: ignore[no-untyped-def]
    """Until all that kernels in front have written can be read."""
    gdc_wait()


@triton.jit
def ahead(places, size):  # type: ignore[no-untyped-def]
    """Asks for `size` bytes, a multiple of 16, at each of these addresses to be brought into the second-level cache."""
    tl.inline_asm_elementwise(
        "{ cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [places, size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
