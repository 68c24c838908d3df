"""Ranks that compute together, by torch's process groups: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    BroadcastOptions,
    ProcessGroupGloo,
    Store,
    Work,
)

PATIENCE_S = 600.0  # a rank may load its share for so long; that one is gone, others see sooner


class Collectives(Protocol):
    """What all process groups have, though torch's types say so of some alone."""

    def rank(self) -> int: ...

    def size(self) -> int: ...

    def allreduce(self, tensors: list[Tensor], opts: AllreduceOptions) -> Work | None: ...

    def broadcast(self, tensors: list[Tensor], opts: BroadcastOptions) -> Work | None: ...

    def _allgather_base(self, output: Tensor, input: Tensor, opts: AllgatherOptions) -> Work | None: ...


class Ranks:
    """A Team (`workers.core`) over a process group."""

    def __init__(self, group: Collectives) -> None:
        self._group, self.rank, self.size = group, group.rank(), group.size()
        # Not asynchronous: on a GPU that keeps the work in the caller's own stream.
        self._sum, self._told, self._joined = AllreduceOptions(), BroadcastOptions(), AllgatherOptions()
        for options in (self._sum, self._told, self._joined):
            options.asyncOp = False

    def sum(self, x: Tensor) -> Tensor:
        """x of all ranks added up, in its place."""
        if x.numel():
            _done(self._group.allreduce([x], self._sum))
        return x

    def told(self, x: Tensor, by: int = 0) -> Tensor:
        """x as rank `by` has it, in its place."""
        if x.numel():
            self._told.rootRank, self._told.rootTensor = by, 0
            _done(self._group.broadcast([x], self._told))
        return x

    def joined(self, x: Tensor) -> Tensor:
        """x of all ranks, [size, *x.shape]."""
        out = x.new_empty(self.size * x.shape[0], *x.shape[1:])
        if x.numel():
            _done(self._group._allgather_base(out, x.contiguous(), self._joined))
        return out.view(self.size, *x.shape)


def ranks_on_cpu(store: Store, rank: int, size: int, patience_s: float = PATIENCE_S) -> Ranks:
    """A rank among CPUs, which find each other by `store`."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = timedelta(seconds=patience_s)
    options._threads = 1
    return Ranks(cast(Collectives, ProcessGroupGloo(store, rank, size, options)))


def ranks_on_cuda(store: Store, rank: int, size: int) -> Ranks:
    """A rank among GPUs, this process' on the device that is current. It is the process' only group."""
    device = torch.device("cuda", torch.cuda.current_device())
    timeout = timedelta(seconds=PATIENCE_S)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=size, timeout=timeout, device_id=device)
    return Ranks(cast(Collectives, dist.distributed_c10d._get_default_group()))


def _done(work: Work | None) -> None:
    """Waits for the CPUs' work to be done; on a GPU, has the stream wait."""
    if work is not None:
        work.wait()
