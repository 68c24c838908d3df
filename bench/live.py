"""Several live sessions at once on one machine, each asked again and again: is everything seen in time, and answered?

    python -m bench.live --sessions 6 --json

Every session is a clip of its own of the synthetic world, sent as JPEG pictures at one a second with jittered arrivals,
and asked a question about the present every ten seconds. The median of the runs counts; all of them are in the JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

from bench.clips import Clip, rendered
from bench.host import cpu_seconds, percentile, tree_bytes
from bench.runs import Run, add_arguments, repeated, report, tell
from launcher.serving import serving
from longlook_client import AsyncClient, AsyncLiveSession, Health, LonglookError
from training.world.scoring import is_right

RESULTS = Path("bench/results/live-cpu.json")
SAMPLE_S = 2.0
WARM_UP_S = 3  # sessions' first pictures, before anything is asked


@dataclass(frozen=True, slots=True)
class Load:
    """What the server is put under: to each session `budget` tokens, and a question `every` so many seconds."""

    sessions: int
    seconds: int
    every: float
    budget: int
    jitter: float
    seed: int


@dataclass(slots=True)
class LiveRun(Run):
    """Times in milliseconds."""

    first_token_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[dict[str, str | int]] = field(default_factory=list)
    asked: int = 0
    right: int = 0
    generator_cpu_s: float = 0.0
    server_cpu_s: float = 0.0

    def figures(self) -> dict[str, float]:
        """The run in single numbers; processor time in cores."""
        return {
            "first_token_p50_ms": percentile(self.first_token_ms, 0.5),
            "first_token_p95_ms": percentile(self.first_token_ms, 0.95),
            "frame_age_max_ms": max(self.lag_ms, default=float("nan")),
            "dropped": sum(self.dropped.values()),
            "right": self.right / max(self.asked, 1),
            "failed": len(self.failed),
            **self.memory_figures(),
            "generator_cpu": self.generator_cpu_s / self.seconds,
            "server_cpu": self.server_cpu_s / self.seconds,
        }


async def run(load: Load, clips: list[Clip], model: str | None) -> LiveRun:
    """One run on a server of its own."""
    seen = LiveRun()
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as folder:
        async with serving(Path(folder) / "serve.log", model=model) as server:
            launcher = psutil.Process(server.pid)
            used, taken, began = _own_cpu(), cpu_seconds(launcher), time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(_watch_memory(launcher, seen, began))
                async with asyncio.TaskGroup() as streams:
                    for number, clip in enumerate(clips):
                        start = began + WARM_UP_S + number / len(clips)
                        streams.create_task(_drive(server.client, clip, load, start, seen))
                watcher.cancel()
            seen.seconds = time.monotonic() - began
            seen.generator_cpu_s, seen.server_cpu_s = _own_cpu() - used, cpu_seconds(launcher) - taken
    return seen


async def _drive(client: AsyncClient, clip: Clip, load: Load, start: float, seen: LiveRun) -> None:
    """One session, from its first picture to its last answer."""
    opened = await client.create_session(wait=60.0, fps=1.0, budget_tokens=load.budget, policy="window")
    async with opened as session, session.live() as live:
        async with asyncio.TaskGroup() as tasks:
            health = tasks.create_task(_watch_health(live, seen))
            async with asyncio.TaskGroup() as questions:
                for second, picture in enumerate(clip.pictures):
                    await asyncio.sleep(max(0.0, start + second + clip.jitter[second] - time.monotonic()))
                    seen.sent += await live.send_picture(picture, float(second))
                    if second in clip.questions:
                        questions.create_task(_ask(live, clip, second, seen))
            health.cancel()
        seen.count_dropped((await session.health()).dropped)


async def _ask(live: AsyncLiveSession, clip: Clip, second: int, seen: LiveRun) -> None:
    question, text, asked = clip.questions[second], "", time.monotonic()
    seen.asked += 1
    try:
        async for delta in await live.ask(question.text, remember=False, max_tokens=32):
            if not text:
                seen.first_token_ms.append((time.monotonic() - asked) * 1000)
            text += delta.text
    except LonglookError as error:
        seen.failed.append(str(error))
    if is_right(question.kind, question.value, text):
        seen.right += 1
    else:
        seen.wrong.append({"second": second, "question": question.text, "true": question.value, "answer": text})


async def _watch_health(live: AsyncLiveSession, seen: LiveRun) -> None:
    async for event in live.events():
        if isinstance(event, Health) and event.lag_ms is not None:
            seen.lag_ms.append(event.lag_ms)


async def _watch_memory(launcher: psutil.Process, seen: LiveRun, began: float) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        seen.memory.append((time.monotonic() - began, await asyncio.to_thread(tree_bytes, launcher)))


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=240, help="length of a run; memory is judged after two minutes")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between the questions to one session")
    parser.add_argument("--budget", type=int, default=1376, help="tokens of a session, three quarters of them trunk")
    parser.add_argument("--jitter", type=float, default=0.1, help="deviation of arrival times in seconds")
    parser.add_argument("--model", help="default: the bundled model")
    add_arguments(parser, RESULTS)
    wanted = parser.parse_args()
    load = Load(wanted.sessions, wanted.seconds, wanted.every, wanted.budget, wanted.jitter, wanted.seed)
    console = Console(stderr=True)
    with console.status("rendering clips ..."):
        clips = [
            rendered(load.seed * 1000 + n, load.seconds, load.every, load.every * n / load.sessions, load.jitter)
            for n in range(load.sessions)
        ]
    runs = repeated(console, wanted.runs, lambda number: asyncio.run(run(load, clips, wanted.model)))
    tell(console, report("live", asdict(load), runs), "live sessions", wanted)


if __name__ == "__main__":
    main()
