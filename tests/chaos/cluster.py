"""A cluster of real processes on this machine: a server with its log on disk, gateways, workers with their engines.

Whatever ends is started again after a pause, as an orchestrator would. Every process that was ever seen is remembered,
so that one which outlives its parent is found.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil

from launcher.serve import free_port
from launcher.serving import logged, tail
from launcher.valkey import bundled_binary, server_command, socket_url
from tests.e2e.eventually import eventually

PAUSE_S = 0.3  # before what has ended is started again
START_S = 90.0
STOP_S = 60.0
GONE_S = 10.0
READY = re.compile(r'"worker ready".*"worker_id": "(w_[0-9a-f]+)"')
KEY = "chaos-key-of-no-worth-0123456789abcdef"
# One tenant asks as fast as ten would, and waits for as long as a busy machine takes to start a worker. Several engines
# share the cores: two threads of one would wait for each other wherever another runs.
PATIENT = {
    "LONGLOOK_API_KEYS": f"chaos:{KEY}",
    "LONGLOOK_LIMITS__QUESTIONS_PER_S": "1000",
    "LONGLOOK_LIMITS__REQUESTS_PER_S": "1000",
    "LONGLOOK_LIMITS__SESSIONS": "1000",
    "LONGLOOK_LIMITS__UNOWNED_S": "90",
    "LONGLOOK_THREADS": "1",
}


@dataclass
class Member:
    """One place in the cluster, and the process that fills it now."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    starts: int = 0
    crashes: list[tuple[int, Path]] = field(default_factory=list)  # status and log of those not killed from here
    killed: bool = False

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    @property
    def last_log(self) -> Path:
        """Of the newest process."""
        return self.log.with_suffix(f".{self.starts}")

    @property
    def worker_id(self) -> str:
        """As the newest process calls itself, empty before it is ready."""
        said = READY.search(self.last_log.read_text()) if self.last_log.exists() else None
        return said[1] if said is not None else ""


class Cluster:
    """Made by ``cluster``."""

    def __init__(self, folder: Path, gateways: int, workers: int, worker: Sequence[str], restarts: bool) -> None:
        self._folder = folder
        self._restarts = restarts
        self._seen: dict[int, psutil.Process] = {}
        self.bus_url = socket_url(folder / "s.sock")
        surroundings = {**os.environ, **PATIENT, "LONGLOOK_REDIS_URL": self.bus_url}
        # Every write is on disk before it is acknowledged: what was acknowledged survives a killed server.
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        bus = [*server_command(bundled_binary(), folder / "s.sock", megabytes=512), *durable]
        self.bus = Member("bus", bus, surroundings, folder / "bus")
        self.gateways = [self._gateway(number, surroundings) for number in range(gateways)]
        self.workers = [
            Member(f"worker-{number}", worker, surroundings, folder / f"worker-{number}") for number in range(workers)
        ]

    @property
    def members(self) -> list[Member]:
        return [self.bus, *self.gateways, *self.workers]

    @property
    def addresses(self) -> list[str]:
        """Of the gateways, ``http://host:port``."""
        return [f"http://127.0.0.1:{member.command[-1]}" for member in self.gateways]

    async def until_ready(self) -> None:
        """Returns once every gateway knows all workers. TimeoutError after ``START_S``."""
        async with httpx.AsyncClient(trust_env=False) as http:
            for address in self.addresses:
                await eventually(partial(self._knows_all, http, address), START_S)

    def worker(self, worker_id: str) -> Member:
        """The member that calls itself so."""
        return next(member for member in self.workers if member.worker_id == worker_id)

    def family(self, member: Member) -> list[psutil.Process]:
        """The member's process and all below it."""
        if member.pid is None:
            return []
        try:
            head = psutil.Process(member.pid)
            found = [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self._seen |= {process.pid: process for process in found}
        return found

    def kill(self, member: Member) -> bool:
        """SIGKILL to the member's own process; its children are left to find out. False where it does not run."""
        if not self.family(member) or member.pid is None:
            return False
        member.killed = True
        os.kill(member.pid, signal.SIGKILL)
        return True

    async def stop_for(self, member: Member, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT after ``seconds``. False where the member does not run."""
        process = member.process
        if process is None or member.pid is None:
            return False
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        return True

    def keep(self, member: Member) -> None:
        """Runs the member from now on; where nothing is started again, until it ends."""
        member.keeper = asyncio.create_task(self._keep(member), name=member.name)

    async def end(self, member: Member) -> int | None:
        """SIGTERM, and no new start: the exit status, None where nothing ran."""
        keeper, member.keeper = member.keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if member.process is None or member.pid is None:
            return None
        self.family(member)
        member.process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                return await member.process.wait()
        except TimeoutError:
            member.process.kill()
            return await member.process.wait()

    async def survivors(self) -> list[str]:
        """Processes that were seen below members and still run, although their members do not."""
        ours = {process.pid for member in self.members for process in self.family(member)}
        others = [process for pid, process in self._seen.items() if pid not in ours]
        _, alive = await asyncio.to_thread(psutil.wait_procs, others, timeout=GONE_S)
        return [f"{process.pid} {' '.join(process.cmdline()[:4])}" for process in alive]

    def crashes(self) -> list[str]:
        """Members that ended on their own, with their last words."""
        return [
            f"{member.name} ended with {status}:\n{tail(log)}"
            for member in self.members
            for status, log in member.crashes
        ]

    def _gateway(self, number: int, surroundings: Mapping[str, str]) -> Member:
        command = [sys.executable, "-m", "launcher.cli", "gateway", "--port", str(free_port("127.0.0.1"))]
        return Member(f"gateway-{number}", command, surroundings, self._folder / f"gateway-{number}")

    async def _keep(self, member: Member) -> None:
        while True:
            member.starts += 1
            member.killed = False
            member.process = await logged(list(member.command), member.last_log, member.environment)
            status = await member.process.wait()
            if not member.killed:
                member.crashes.append((status, member.last_log))
            if not self._restarts:
                return
            await asyncio.sleep(PAUSE_S)

    async def _knows_all(self, http: httpx.AsyncClient, address: str) -> bool:
        try:
            reply = await http.get(f"{address}/readyz")
        except httpx.TransportError:
            return False
        known = {worker["id"] for worker in reply.json()["workers"]} if reply.status_code == 200 else set()
        return known.issuperset(member.worker_id for member in self.workers)


@asynccontextmanager
async def cluster(
    folder: Path, *, gateways: int, workers: int, worker: Sequence[str], restarts: bool = True
) -> AsyncIterator[Cluster]:
    """A cluster whose gateways know all its workers; ``worker`` is the command of one. Ended with the block."""
    made = Cluster(folder, gateways, workers, worker, restarts)
    try:
        for member in made.members:
            made.keep(member)
        await made.until_ready()
        yield made
    finally:
        for member in [*made.gateways, *made.workers, made.bus]:
            await made.end(member)
