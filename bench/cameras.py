"""Live cameras on one small machine: does every sampled picture reach its lane, and how old is it there?

    python -m bench.cameras --json

Twelve sessions are sent 720p H.264 at 15 pictures a second each and sampled at one, by a gateway with its decoders and
a bus. An onlooker reads the lanes: a picture's age is counted from the moment at which its access unit was given to
the socket. Footage is encoded beforehand. The first run is long, and shows whether memory stays level; the medians are
over all runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

from bench.footage import Footage, footage
from bench.host import CpuByProgram, percentile, tree_bytes
from bench.lanes import Onlooker, private_bus
from bench.runs import Run, add_arguments, repeated, report, tell
from launcher.child import stop
from launcher.serve import free_port
from launcher.serving import logged, serving, tail
from longlook_client import AsyncClient, LonglookError
from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.messages import ModelCard, WorkerCard

RESULTS = Path("bench/results/cameras-cpu.json")
KEY = "ll_bench_of_cameras_0001"
WIDTH, HEIGHT = 1280, 720
LOOP_S = 10
CLIPS = 4
SAMPLE_S = 3.0
EARLY = 0.1  # of a period: a picture may be sampled so long before it is due
ADVERTISE_S = 1.0
DRAIN_S = 5.0
START_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What the server is put under."""

    sessions: int
    fps_in: int
    fps_out: float
    kilobits_per_s: int
    worker: str
    seed: int


@dataclass(slots=True)
class CamerasRun(Run):
    """Ages in milliseconds; processor seconds by program."""

    ages_ms: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    expected: int = 0
    late_ms: float = 0.0
    reconnects: int = 0

    def figures(self) -> dict[str, float]:
        """The run in single numbers; processor time in cores."""
        cores = {f"cores_{name}": spent / self.seconds for name, spent in self.cpu_s.items()}
        return {
            "age_p50_ms": percentile(self.ages_ms, 0.5),
            "age_p99_ms": percentile(self.ages_ms, 0.99),
            "age_max_ms": max(self.ages_ms, default=float("nan")),
            "lost": self.expected - len(self.ages_ms),
            "dropped": sum(self.dropped.values()),
            "reconnects": self.reconnects,
            "sender_late_max_ms": self.late_ms,
            **cores,
            **self.memory_figures(),
        }


class Camera:
    """One session's sender; ``sent_at`` holds when each unit was given to the socket, in Unix seconds."""

    def __init__(self, clip: Footage, number: int, load: Load) -> None:
        self._clip = clip
        self._first = clip.key_unit(number)  # key frames do not come all at once
        self._load = load
        self.sent_at: list[float] = []
        self.late_ms = 0.0
        self.dropped: dict[str, int] = {}
        self.reconnects = 0
        self.session_id = ""

    async def play(self, client: AsyncClient, onlooker: Onlooker, start: float, seconds: int) -> None:
        """Send at the camera's pace from ``start`` (monotonic seconds) on."""
        opened = await client.create_session(wait=START_S, fps=self._load.fps_out)
        async with opened as session, session.live() as live:
            self.session_id = session.id
            await onlooker.watch(session.id)
            units, fps = self._clip.units, self._load.fps_in
            for number in range(seconds * fps):
                due = start + number / fps
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.late_ms = max(self.late_ms, (time.monotonic() - due) * 1000)
                self.sent_at.append(time.time())
                await live.send_h264(units[(self._first + number) % len(units)], number / fps)
            await asyncio.sleep(DRAIN_S)
            self.reconnects = live.reconnects
            self.dropped = dict((await session.health()).dropped)

    @property
    def expected(self) -> int:
        """Pictures that the session's frame rate asks for."""
        periods = (len(self.sent_at) - 1) / self._load.fps_in * self._load.fps_out
        return int(periods + EARLY) + 1

    def age_ms(self, t_ms: int, at: float) -> float:
        """Age at ``at`` of the picture of session time ``t_ms``."""
        return (at - self.sent_at[round(t_ms * self._load.fps_in / 1000)]) * 1000


async def run(load: Load, clips: list[Footage], seconds: int) -> CamerasRun:
    """One run on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as folder:
        async with private_bus() as url:
            server = _with_worker if load.worker == "model" else _without_worker
            async with server(Path(folder) / "serve.log", url) as client:
                return await _measure(load, clips, seconds, url, client)


async def _measure(load: Load, clips: list[Footage], seconds: int, url: str, client: AsyncClient) -> CamerasRun:
    seen, bus = CamerasRun(), await Bus.connect(url)
    onlooker = Onlooker(bus)
    cameras = [Camera(clips[n % len(clips)], n, load) for n in range(load.sessions)]
    began, spent = time.monotonic(), CpuByProgram()
    try:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(onlooker.run()), tasks.create_task(_watch(seen, spent, began))]
            async with asyncio.TaskGroup() as playing:
                for number, camera in enumerate(cameras):
                    start = began + 2.0 + number / load.sessions
                    playing.create_task(camera.play(client, onlooker, start, seconds))
            for task in beside:
                task.cancel()
    finally:
        await bus.aclose()
    _judge(seen, cameras, onlooker)
    return seen


def _judge(seen: CamerasRun, cameras: list[Camera], onlooker: Onlooker) -> None:
    by_session = {camera.session_id: camera for camera in cameras}
    pictures = {(item.session_id, item.t_ms): item.at for item in reversed(onlooker.seen)}
    seen.ages_ms = [by_session[name].age_ms(t_ms, at) for (name, t_ms), at in pictures.items()]
    seen.expected = sum(camera.expected for camera in cameras)
    seen.sent = sum(len(camera.sent_at) for camera in cameras)
    seen.late_ms = max(camera.late_ms for camera in cameras)
    seen.reconnects = sum(camera.reconnects for camera in cameras)
    for camera in cameras:
        seen.count_dropped(camera.dropped)


async def _watch(seen: CamerasRun, spent: CpuByProgram, began: float) -> None:
    """Memory of every process that the benchmark started, and processor time of each."""
    while True:
        await asyncio.sleep(SAMPLE_S)
        size = await asyncio.to_thread(lambda: sum(tree_bytes(child) for child in psutil.Process().children()))
        seen.memory.append((time.monotonic() - began, size))
        seen.cpu_s = await asyncio.to_thread(spent.sample)
        seen.seconds = time.monotonic() - began


@asynccontextmanager
async def _with_worker(log: Path, url: str) -> AsyncIterator[AsyncClient]:
    """`longlook serve` with the bundled model."""
    async with serving(log, environment={"LONGLOOK_REDIS_URL": url}) as server:
        yield server.client


@asynccontextmanager
async def _without_worker(log: Path, url: str) -> AsyncIterator[AsyncClient]:
    """A gateway, and a worker that is advertised but does not read: the onlooker does."""
    port, bus = free_port("127.0.0.1"), await Bus.connect(url)
    surroundings = {**os.environ, "LONGLOOK_API_KEYS": KEY, "LONGLOOK_REDIS_URL": url}
    command = [sys.executable, "-m", "launcher.cli", "gateway", "--host", "127.0.0.1", "--port", str(port)]
    gateway = await logged(command, log, surroundings)
    try:
        async with AsyncClient(f"http://127.0.0.1:{port}", KEY) as client, asyncio.TaskGroup() as tasks:
            advertising = tasks.create_task(_advertise(bus))
            try:
                async with asyncio.timeout(START_S):
                    await _ready(client)
            except TimeoutError:
                raise RuntimeError(f"the gateway was not ready; its last lines:\n{tail(log)}") from None
            yield client
            advertising.cancel()
    finally:
        await stop(gateway, seconds=START_S)
        await bus.aclose()


async def _ready(client: AsyncClient) -> None:
    while True:
        try:
            if await client.models():
                return
        except LonglookError:
            pass  # not up yet
        await asyncio.sleep(0.1)


async def _advertise(bus: Bus) -> None:
    model = ModelCard(
        name="onlooker",
        frame_width=224,
        frame_height=224,
        tokens_per_frame=64,
        pictures_per_grid=1,
        max_fps=2.0,
        default_budget_tokens=1024,
        max_budget_tokens=4096,
        bytes_per_token=64,
        policies=["window"],
    )
    card = WorkerCard(worker_id="w_onlooker", model=model, capacity_tokens=1 << 20, max_sessions=64)
    while True:
        with suppress(BusUnavailable):
            await bus.placement.advertise(card, {})
        await asyncio.sleep(ADVERTISE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--fps-in", type=int, default=15)
    parser.add_argument("--fps-out", type=float, default=1.0)
    parser.add_argument("--kilobits", type=int, default=2000, help="bit rate of each camera")
    parser.add_argument(
        "--worker", choices=("none", "model"), default="none", help="whether the bundled model reads too"
    )
    parser.add_argument("--soak", type=int, default=600, help="seconds of the first run, which judges memory")
    parser.add_argument("--seconds", type=int, default=90, help="of each run after it")
    add_arguments(parser, RESULTS)
    wanted = parser.parse_args()
    load = Load(wanted.sessions, wanted.fps_in, wanted.fps_out, wanted.kilobits, wanted.worker, wanted.seed)
    console = Console(stderr=True)
    form = {"width": WIDTH, "height": HEIGHT, "fps": load.fps_in, "kilobits_per_s": load.kilobits_per_s}
    with console.status("encoding footage ..."):
        clips = [footage(load.seed * 100 + n, seconds=LOOP_S, **form) for n in range(CLIPS)]
    lengths = [wanted.soak, *[wanted.seconds] * (wanted.runs - 1)]
    runs = repeated(console, wanted.runs, lambda number: asyncio.run(run(load, clips, lengths[number])))
    result = report("cameras", {**asdict(load), "measured_kilobits_per_s": round(clips[0].kilobits_per_s)}, runs)
    # Memory is judged by the longest run alone.
    result["summary"]["memory_slope_mib_a_minute"] = result["figures"][0]["memory_slope_mib_a_minute"]
    tell(console, result, "cameras", wanted)


if __name__ == "__main__":
    main()
