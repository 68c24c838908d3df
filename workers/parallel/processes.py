"""The processes of ranks 1 and up: started by rank 0, watched by it, and gone when it is."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch._C._distributed_c10d import FileStore

from workers.core import Team
from workers.engine.device import Pixels
from workers.models.checkpoint import Checkpoint
from workers.models.errors import UnsupportedModel
from workers.parallel.follower import Follower
from workers.parallel.links import Link, Links, RankLost
from workers.parallel.orders import Broken
from workers.parallel.team import ranks_on_cpu, ranks_on_cuda

GRACE_S = 3.0  # for a process to end by itself when another one is gone
_STUCK = 70  # exit status of one that could not


@dataclass(frozen=True, slots=True)
class Place:
    """A rank among `size`, which find each other by the file `meeting`; with `cuda`, each on the GPU of its number."""

    rank: int
    size: int
    meeting: str
    cuda: bool


def join(place: Place) -> Team:
    """Meets the other ranks; waits for them. UnsupportedModel if there are fewer GPUs than ranks."""
    store = FileStore(place.meeting, place.size)
    if not place.cuda:
        return ranks_on_cpu(store, place.rank, place.size)
    if torch.cuda.device_count() < place.size:
        raise UnsupportedModel(f"{place.size} ranks need as many GPUs; {torch.cuda.device_count()} are here")
    torch.cuda.set_device(place.rank)
    return ranks_on_cuda(store, place.rank, place.size)


def follow(peer: socket.socket, place: Place, load: Callable[[Team], Checkpoint], pixels: Pixels) -> None:
    """Does what rank 0 says at the other end of `peer` until that closes. `load` gives a rank's share of the model."""
    link = Link(peer)
    watch_over([peer.fileno()], threading.Event())
    try:
        team = join(place)
        follower = Follower(load(team), team, pixels, link)
        gc.collect()
        gc.freeze()  # as rank 0 does, which would wait for a collection here
        follower.serve()
    except BaseException as error:
        link.report(Broken(f"{type(error).__name__}: {error}"))
        raise


class Processes:
    """As a context manager: the other ranks run inside of it, and RankLost interrupts it when one of them ends.

    For the main thread of rank 0, which is told by SIGCHLD.
    """

    def __init__(self, size: int, arguments: Sequence[str], inherited: Sequence[int]) -> None:
        """`arguments` are the engine process' own; `inherited` are descriptors among them."""
        self._size, self._arguments, self._inherited = size, arguments, inherited
        self._folder = TemporaryDirectory(prefix="longlook-ranks-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def __enter__(self) -> Processes:
        pairs = [socket.socketpair() for _ in range(1, self._size)]
        for rank, (_, theirs) in enumerate(pairs, start=1):
            with theirs:
                self._processes.append(self._started(rank, theirs.fileno()))
        self.links = Links([ours for ours, _ in pairs])
        watch_over([peer.fileno() for peer in self.links.peers], self._over)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: self._count())
        self._count()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._over.set()
        for peer in self.links.peers:
            peer.close()
        for process in self._processes:
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    @property
    def meeting(self) -> str:
        """The file by which the ranks find each other."""
        return os.path.join(self._folder.name, "meeting")

    def _started(self, rank: int, link: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "workers.engine", *self._arguments]
        command += ["--rank", str(rank), "--meeting", self.meeting, "--socket-fd", str(link)]
        return subprocess.Popen(command, pass_fds=(link, *self._inherited), stdin=subprocess.DEVNULL)  # noqa: S603

    def _count(self) -> None:
        """RankLost if one has ended."""
        for rank, process in enumerate(self._processes, start=1):
            status = process.poll()
            if status is not None:
                raise RankLost(self.links.last_words(rank) or f"rank {rank} ended with status {status}")


def watch_over(sockets: Sequence[int], over: threading.Event) -> None:
    """Ends this process soon after the other end of one of `sockets` is gone, unless all is `over` by then.

    A process that waits for a rank that is gone, in a kernel of its device, would never come back to notice.
    """
    threading.Thread(target=_watch, args=(tuple(sockets), over), name="watch over ranks", daemon=True).start()


def _watch(sockets: Sequence[int], over: threading.Event) -> None:
    hung_up = select.poll()
    for each in sockets:
        hung_up.register(each, 0)
    hung_up.poll()
    if not over.wait(GRACE_S):
        os._exit(_STUCK)
