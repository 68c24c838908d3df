"""Ranks in one process: a thread for each that is led, gloo between them, and a rig on the one that leads."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch._C._distributed_c10d import HashStore

from tests.workers.engine.rig import Rig
from workers.core import Team
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, load_model, open_checkpoint
from workers.parallel.follower import Follower
from workers.parallel.leader import leading
from workers.parallel.links import Link, Links
from workers.parallel.team import ranks_on_cpu

T = TypeVar("T")
PATIENCE_S = 20.0


def share_of(folder: Path, team: Team) -> Checkpoint:
    return open_checkpoint(folder, load=partial(load_model, team=team))


def at_once(size: int, work: Callable[[Team], T]) -> list[T]:
    """What `work` gives for each rank of a team, each in a thread of its own."""
    store = HashStore()

    def run(rank: int) -> T:
        with torch.inference_mode():
            return work(ranks_on_cpu(store, rank, size, PATIENCE_S))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))


@contextmanager
def led_rig(folder: Path, size: int, settings: EngineSettings, **make: Any) -> Iterator[tuple[Rig, Sequence[Follower]]]:
    """A rig on rank 0 of a team, whose other ranks serve it meanwhile."""
    store, pairs = HashStore(), [socket.socketpair() for _ in range(1, size)]
    shown: list[Rig] = []
    followers: list[Follower] = []

    def follow(rank: int, peer: socket.socket) -> None:
        with peer:
            team = ranks_on_cpu(store, rank, size, PATIENCE_S)
            follower = Follower(share_of(folder, team), team, lambda frame: shown[0].pictures[frame.slot], Link(peer))
            followers.append(follower)
            follower.serve()

    with ThreadPoolExecutor(size) as threads, ExitStack() as closing:
        served = [threads.submit(follow, rank, theirs) for rank, (_, theirs) in enumerate(pairs, start=1)]
        for ours, _ in pairs:
            closing.enter_context(ours)
        team = ranks_on_cpu(store, 0, size, PATIENCE_S)
        links = Links([ours for ours, _ in pairs])
        rig = Rig(share_of(folder, team), settings, {"make_device": leading(team, links), **make})
        shown.append(rig)
        yield rig, followers
        closing.close()
        for each in served:
            each.result()
