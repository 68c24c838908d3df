"""The machine that figures come from, and what the processes under test take of it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import psutil


def hardware() -> str:
    """Processor model and number of usable cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and its descendants, shared pages counted once (PSS) where that can be read."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        except (psutil.AccessDenied, AttributeError):
            total += member.memory_info().rss
    return total


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and its living descendants, and of the dead that they waited for."""
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return total


class CpuByProgram:
    """Processor seconds since it was made of this process (``sender``) and of all that it started, by program.

    A process that has ended counts with the one that waited for it: decoders with the one that forks them.
    """

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._before = self.sample()

    def sample(self) -> dict[str, float]:
        """So far, by program."""
        ours = psutil.Process()
        total: dict[str, float] = {}
        for member in (ours, *ours.children(recursive=True)):
            try:
                times = member.cpu_times()
                name = "sender" if member == ours else _program(member)
            except psutil.NoSuchProcess:
                continue
            seconds = times.user + times.system + times.children_user + times.children_system
            total[name] = total.get(name, 0.0) + seconds
        return {name: seconds - self._before.get(name, 0.0) for name, seconds in total.items()}


def _program(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if "server.media" in line:
        return "decoders"
    named = ("valkey", "engine", "worker", "gateway", "serve")
    return next((name for name in named if name in line), "other")


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares line's rise per unit; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * y for x, y in points) / spread


def percentile(values: list[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; NaN if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def together(told: Sequence[Sequence[float]]) -> list[float]:
    """Distances between one stream's moments over the time in which all of them run."""
    start, stop = max(each[0] for each in told), min(each[-1] for each in told)
    return [after - before for before, after in pairwise([at for at in told[0] if start <= at <= stop])]
