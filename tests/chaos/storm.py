"""Carries out a schedule of faults on a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil

from tests.chaos.cluster import Cluster, Member
from tests.chaos.crowd import Person
from tests.chaos.schedule import Fault

T = TypeVar("T")
STOPPED_S = 1.0
ENGINE, NURSERY = "workers.engine", "server.media.nursery"


class Storm:
    """``done`` counts what was carried out, by kind; where nothing ran that could be hit, a fault is ``missed``."""

    def __init__(self, cluster: Cluster, people: Sequence[Person], tell: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._people = people
        self._tell = tell
        self.done: Counter[str] = Counter()
        self.missed = 0

    async def run(self, faults: Sequence[Fault]) -> None:
        """Returns when the last one is over, and whatever was stopped goes on."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                group.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        hit = await self._hit(fault)
        self._tell(f"{fault}{f' {hit}' if hit else ' missed'}")
        if hit:
            self.done[fault.poison if fault.kind == "poison" else fault.kind] += 1
        else:
            self.missed += 1

    async def _hit(self, fault: Fault) -> str:
        """What was hit, or nothing."""
        cluster = self._cluster
        match fault.kind:
            case "bus":
                return cluster.bus.name if cluster.kill(cluster.bus) else ""
            case "worker" | "gateway":
                member = _chosen(_running(cluster.workers if fault.kind == "worker" else cluster.gateways), fault)
                return member.name if member is not None and cluster.kill(member) else ""
            case "stop":
                member = _chosen(_running([*cluster.workers, *cluster.gateways]), fault)
                return member.name if member is not None and await cluster.stop_for(member, STOPPED_S) else ""
            case "poison":
                return await self._poison(fault)

    async def _poison(self, fault: Fault) -> str:
        if fault.poison == "picture":
            person = self._people[int(fault.choice * len(self._people))]
            await person.poison()
            return person.session_id
        if fault.poison == "engine":
            return self._kill_engine(_chosen(_running(self._cluster.workers), fault))
        gateway = _chosen(_running(self._cluster.gateways), fault)
        family = [] if gateway is None else self._cluster.family(gateway)
        nurseries = {process.pid for process in family if _is(process, NURSERY)}
        return _kill(_chosen([process for process in family if _parent(process) in nurseries], fault))

    def _kill_engine(self, worker: Member | None) -> str:
        """The worker ends with it, as it should."""
        if worker is None or worker.pid is None:
            return ""
        engines = [process for process in self._cluster.family(worker) if _is(process, ENGINE)]
        if not engines and "tests.chaos.standin" not in worker.command:
            return ""
        worker.killed = True
        if engines:
            return _kill(engines[0])
        os.kill(worker.pid, signal.SIGUSR1)
        return worker.name


def _chosen(among: Sequence[T], fault: Fault) -> T | None:
    return among[int(fault.choice * len(among))] if among else None


def _running(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.pid is not None]


def _is(process: psutil.Process, module: str) -> bool:
    try:
        return module in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _kill(process: psutil.Process | None) -> str:
    try:
        if process is not None:
            process.kill()
            return str(process.pid)
    except psutil.NoSuchProcess:
        pass
    return ""
