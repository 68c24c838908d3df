"""Plans of kernels, compiled and proved by processes of their own before any is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Protocol, TypeVar

import torch
from torch import Tensor

COMPILERS = 14
MOST_OFF = 1e-2


class Proof(Protocol):
    """What a plan's outputs are off by; None: there are none."""

    @property
    def error(self) -> float | None: ...


Wanted = TypeVar("Wanted")
P = TypeVar("P", bound=Proof)


def proved(prove: Callable[[Wanted], P], wanted: Iterable[Wanted]) -> Iterator[P]:
    """What `prove` says of all that is right; afterwards Triton's cache has everything. The rest is printed."""
    with ProcessPoolExecutor(COMPILERS, get_context("spawn")) as pool:
        for proof in pool.map(prove, wanted):
            if proof.error is None or proof.error > MOST_OFF:
                print(f"left out: {proof}", flush=True)
            else:
                yield proof


def off_by(run: Callable[[], Tensor], expected: Callable[[], Tensor]) -> tuple[float | None, str]:
    """How far `run` is from what is expected of it, which is asked for afterwards; or None, and what is wrong with it.

    It is to give the same each of two times.
    """
    try:
        with torch.inference_mode():
            outs = [run().double() for _ in range(2)]
    except Exception as broken:  # whatever a compiler may say of one plan, the others are still to be measured
        return None, repr(broken)[:300]
    if not torch.equal(*outs):
        return None, "another result the second time"
    exact = expected()
    return float((outs[0] - exact).norm() / exact.norm()), ""
