"""Computations kept as CUDA graphs: launched as one, on tensors that stay where they are.

On a CPU there are none: what would be replayed is computed again, so that whatever is built on graphs runs there too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_WARM_UPS = 2


@contextmanager
def _kept_garbage() -> Iterator[None]:
    """Nothing is collected meanwhile: another graph that goes would break off the one that is being captured."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Memory:
    """What graphs compute in, shared by several of which one runs at a time. Their outputs do not overlap."""

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class Captured:
    """A computation over fixed inputs; `replay` computes it again from whatever they hold by then."""

    def __init__(self, compute: Callable[[], Tensor], device: torch.device, memory: Memory | None = None) -> None:
        """`compute` is run a few times, then captured; it computes in `memory`, by default in some of its own."""
        self._compute = compute
        self._graph = self._captured(compute, memory) if device.type == "cuda" else None

    def replay(self) -> Tensor:
        """The output; on a GPU in the same place each time, what was there before being gone."""
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._output

    def _captured(self, compute: Callable[[], Tensor], memory: Memory | None) -> torch.cuda.CUDAGraph:
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with _kept_garbage(), torch.cuda.graph(graph, pool=None if memory is None else memory.pool):
            self._output = compute()
        return graph
