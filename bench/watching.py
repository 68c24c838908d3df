"""What an attack does to others: the server's own processes, the memory of its decoders, and a session beside it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.host import percentile
from bench.lanes import Onlooker
from launcher.serving import Serving
from longlook_client import Health

LOOK_S = 0.1
DECODERS_PARENT = "server.media.nursery"
TRACEBACK = "Traceback (most recent call last)"
OPEN_S = 60.0
BUDGET = 1024
SETTLE_S = 2.0


class Processes:
    """The server's processes from the moment on at which this is made. Its decoders may come and go, the others not."""

    def __init__(self, pid: int) -> None:
        self._launcher = psutil.Process(pid)
        self._ours = {member: _line(member) for member in self._members() if not self._is_decoder(member)}
        self.peak_bytes = 0

    async def watch(self) -> None:
        """Note the most memory that any decoder has had, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self._look)

    def gone(self) -> list[str]:
        """Command lines of the processes that have ended since."""
        return [line for member, line in self._ours.items() if not _runs(member)]

    @property
    def named(self) -> dict[str, int]:
        """Command lines and ids of the processes that should stay."""
        return {line: member.pid for member, line in self._ours.items()}

    def _look(self) -> None:
        for member in self._members():
            if self._is_decoder(member):
                self.peak_bytes = max(self.peak_bytes, _high_water(member.pid))

    def _members(self) -> list[psutil.Process]:
        return [self._launcher, *self._launcher.children(recursive=True)]

    def _is_decoder(self, member: psutil.Process) -> bool:
        """Whether it was forked by the nursery: the same command, one step further down."""
        try:
            parent = member.parent()
            return parent is not None and DECODERS_PARENT in _line(member) and DECODERS_PARENT in _line(parent)
        except psutil.NoSuchProcess:
            return False


def _runs(member: psutil.Process) -> bool:
    return member.is_running() and member.status() != psutil.STATUS_ZOMBIE


def _line(member: psutil.Process) -> str:
    try:
        return " ".join(member.cmdline()[1:])
    except psutil.Error:
        return ""


def _high_water(pid: int) -> int:
    """Most memory that the process has had at any time, shared pages included."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def tracebacks(log: Path) -> int:
    """Faults that the server's log tells of."""
    return log.read_text(encoding="utf-8", errors="replace").count(TRACEBACK)


async def counter(server: Serving, name: str) -> float:
    """A counter of the gateway's metrics, over all of its labels."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@dataclass
class Bystander:
    """A session that is sent a good picture a second: are they in its lane, and seen by the model, in time?"""

    picture: bytes
    sent_at: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    session_id: str = ""

    async def run(self, server: Serving, onlooker: Onlooker, over: asyncio.Event) -> None:
        """Send until ``over``, then wait for what is under way."""
        async with (
            await server.client.create_session(wait=OPEN_S, budget_tokens=BUDGET) as session,
            session.live() as live,
        ):
            self.session_id = session.id
            await onlooker.watch(session.id)
            async with asyncio.TaskGroup() as tasks:
                hearing = tasks.create_task(self._hear(live.events()))
                began = time.monotonic()
                while not over.is_set():
                    await asyncio.sleep(max(0.0, began + len(self.sent_at) - time.monotonic()))
                    self.sent_at.append(time.time())
                    await live.send_picture(self.picture, float(len(self.sent_at) - 1))
                await asyncio.sleep(SETTLE_S)
                hearing.cancel()
            self.dropped.update((await session.health()).dropped)

    def figures(self, onlooker: Onlooker) -> dict[str, float]:
        """Ages in milliseconds: in the lane, and when the model had seen them."""
        ages = {
            item.t_ms: (item.at - self.sent_at[item.t_ms // 1000]) * 1000
            for item in reversed(onlooker.seen)
            if item.session_id == self.session_id
        }
        return {
            "frames": len(self.sent_at),
            "lost": len(self.sent_at) - len(ages),
            "dropped": self.dropped.total(),
            "age_p99_ms": percentile(list(ages.values()), 0.99),
            "age_max_ms": max(ages.values(), default=float("nan")),
            "seen_by_model_max_ms": max(self.lag_ms, default=float("nan")),
        }

    async def _hear(self, events: AsyncIterator[object]) -> None:
        async for event in events:
            if isinstance(event, Health) and event.lag_ms is not None:
                self.lag_ms.append(event.lag_ms)
