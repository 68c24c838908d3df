"""How many live sessions a machine carries, and that memory stays as it is meanwhile: arms of `bench.engine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch

from bench.camera import View, makers
from bench.host import slope
from bench.load import LiveLoad
from bench.sessions import Crowd
from workers.engine.client import ClientLimits, EngineClient

MIB = 2**20
SAMPLE_S = 5.0
SETTLED = 0.25  # of the samples are left out: buffers still grow

Details = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine process is started with: its arguments, tokens of each session, pictures that fill a trunk."""

    arguments: Sequence[str]
    budget: int
    fill: int


async def largest(room: Room, view: View, load: LiveLoad) -> Details:
    """The largest number of sessions that is carried, and what it was like."""
    trials: list[Details] = []
    async with _crowd(room, view, load) as (crowd, group, most):

        async def carries(count: int, seconds: float) -> bool:
            trials.append(await _tried(crowd, group, count, room.fill, replace(load, seconds=seconds)))
            return not trials[-1]["broken"]

        best = await searched(load, most, carries)
    found = best if best or load.step else None  # one number alone does not tell how many it could have been
    return {"sessions": found, "capacity": most, "kept": trials[-1], "trials": trials}


async def searched(load: LiveLoad, most: int, carries: Callable[[int, float], Awaitable[bool]]) -> int:
    """The largest number that `carries` holds of: found in short trials upwards, then kept for the whole time.

    Without a step there are no trials: the number that was given is what is tried for the whole time.
    """
    count = min(load.sessions, most)
    best = 0 if load.step else count
    while count > best and await carries(count, load.trial):
        best, count = count, min(count + load.step, most)
    while best and not await carries(best, load.seconds):
        best = max(0, best - max(1, load.step // 2)) if load.step else 0
    return best


async def steady(room: Room, view: View, load: LiveLoad, count: int) -> Details:
    """So many sessions for the whole time."""
    async with _crowd(room, view, load) as (crowd, group, most):
        return await _tried(crowd, group, min(count, most), room.fill, load)


async def _tried(crowd: Crowd, group: asyncio.TaskGroup, count: int, fill: int, load: LiveLoad) -> Details:
    """What so many sessions were like, and how the memory was."""
    await crowd.grow(group, count, fill)
    await crowd.shrink(count)
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as watching:
        watch = watching.create_task(_watch(samples))
        seen = await crowd.run(load.seconds)
        watch.cancel()
    told = {"sessions": count, **seen.figures(), "broken": seen.broken(load)}
    print(told, flush=True)
    return {**told, "memory": memory(samples)}


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes at so many seconds: of the engine's process on the host, and of everything on the device."""

    at: float
    host: int
    device: int


def memory(samples: Sequence[Sample]) -> Details:
    """Levels at the end, and slopes once things have settled."""
    settled = samples[int(SETTLED * len(samples)) :]
    told: Details = {}
    for name in ("host", "device"):
        points = [(each.at / 60, getattr(each, name) / MIB) for each in settled]
        told[f"{name}_mib"] = round(points[-1][1], 1) if points else None
        told[f"{name}_mib_a_minute"] = round(slope(points), 3)
    return told | {"samples": [asdict(each) for each in samples]}


@asynccontextmanager
async def _crowd(room: Room, view: View, load: LiveLoad) -> AsyncIterator[tuple[Crowd, asyncio.TaskGroup, int]]:
    """A crowd without sessions on an engine of its own, and how many of them the engine has room for."""
    with makers(load.makers) as made:
        async with asyncio.TaskGroup() as group:
            engine = await EngineClient.start(group, room.arguments, ClientLimits(slots=256, start_seconds=600.0))
            crowd = Crowd(engine, view, made, load, room.budget)
            hearing = group.create_task(crowd.hear())
            yield crowd, group, engine.ready.capacity_tokens // room.budget
            await crowd.close()
            await engine.close()
            await hearing


async def _watch(samples: list[Sample]) -> None:
    began = time.monotonic()
    engine = next(child for child in psutil.Process().children() if "workers.engine" in child.cmdline())
    while True:
        samples.append(Sample(time.monotonic() - began, engine.memory_info().rss, _device_bytes()))
        await asyncio.sleep(SAMPLE_S)


def _device_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
