"""The demo: a whole server, a clip that nobody has seen, and three questions with their answers beside the truth.

``make demo``, or ``python -m launcher.demo [--seed N]``. Nothing is left running; the exit status is 0 only if the
server worked and every question was answered, be it rightly or wrongly.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import av
import typer
from PIL import Image
from rich.console import Console
from rich.text import Text

from launcher.child import spawn, stop
from launcher.serve import free_port, new_key
from longlook_client import AsyncAnswer, AsyncClient, AsyncLiveSession, LonglookError

START_SECONDS: Final = 120.0
RENDER_SECONDS: Final = 300.0
STOP_SECONDS: Final = 20.0
QUESTIONS: Final = 3
APART_SECONDS: Final = 3.0
LOG_LINES_SHOWN: Final = 15
LOGGED: Final = 'log="$0"; exec "$@" > "$log" 2>&1'


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Question:
    """``time``: seconds of the clip. ``truth``: what is true then, by the script that the clip was made from."""

    kind: str
    time: float
    text: str
    truth: str
    value: str


def pick(truth: Path) -> list[Question]:
    """Three questions of different kinds, as far apart as the clip allows. DemoFailed where it has too few."""
    asked = json.loads(truth.read_text(encoding="utf-8"))["questions"]
    known = sorted(
        (Question(q["kind"], q["time"], q["text"], q["answer"], q["value"]) for q in asked), key=lambda q: q.time
    )
    picked: list[Question] = []
    for question in known:
        apart = not picked or question.time - picked[-1].time >= APART_SECONDS
        if apart and question.kind not in {other.kind for other in picked}:
            picked.append(question)
    if len(picked) < QUESTIONS:
        raise DemoFailed("the clip has too few questions; try another seed")
    step = (len(picked) - 1) / (QUESTIONS - 1)
    return [picked[round(n * step)] for n in range(QUESTIONS)]


async def render(seed: int, seconds: float, folder: Path) -> tuple[Path, list[Question]]:
    """A clip from the seed, and questions about it."""
    clip, truth = folder / "clip.mp4", folder / "truth.json"
    arguments = ["--seed", str(seed), "--seconds", str(seconds), "--out", str(clip), "--truth", str(truth)]
    status = await _run_logged([sys.executable, "-m", "training.world", "render", *arguments], folder / "render.log")
    if status != 0:
        raise DemoFailed(f"the clip could not be rendered:\n{_tail(folder / 'render.log')}")
    return clip, pick(truth)


async def _run_logged(command: list[str], log: Path) -> int:
    process = await spawn(["/bin/sh", "-c", LOGGED, str(log), *command])
    try:
        async with asyncio.timeout(RENDER_SECONDS):
            return await process.wait()
    except TimeoutError:
        return -1
    finally:
        await stop(process, seconds=STOP_SECONDS)


@asynccontextmanager
async def serving(model: str | None, log: Path, console: Console) -> AsyncIterator[AsyncClient]:
    """A whole server on a free port, ready for sessions, and a client of it. DemoFailed if it does not come up."""
    port, key = free_port("127.0.0.1"), new_key()
    command = [sys.executable, "-m", "launcher.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "LONGLOOK_API_KEYS": key}
    server = await spawn(
        ["/bin/sh", "-c", LOGGED, str(log), *command, *(("--model", model) if model else ())], environment=environment
    )
    try:
        async with AsyncClient(f"http://127.0.0.1:{port}", key) as client:
            with console.status("starting the server ..."):
                await _ready(client, server, log)
            yield client
    finally:
        await stop(server, seconds=STOP_SECONDS)


async def _ready(client: AsyncClient, server: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.returncode is None:
        try:
            if await client.models():
                return
        except LonglookError:
            pass  # not up yet
        await asyncio.sleep(0.2)
    why = "ended" if server.returncode is not None else f"was not ready after {START_SECONDS:.0f} s"
    raise DemoFailed(f"the server {why}; its last lines:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])


def pictures(clip: Path) -> Iterator[tuple[float, bytes]]:
    """The clip's pictures as JPEG, each with its time in seconds, as a camera would send them."""
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            jpeg = io.BytesIO()
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(jpeg, "JPEG", quality=92)
            yield float(frame.time or 0.0), jpeg.getvalue()


@dataclass(frozen=True)
class Asked:
    question: Question
    answer: AsyncAnswer


async def play(live: AsyncLiveSession, clip: Path, questions: list[Question], asked: asyncio.Queue[Asked]) -> None:
    """Sends the clip in real time, and asks each question at its time; the stream never waits for an answer."""
    waiting, frames, began = list(questions), pictures(clip), time.monotonic()
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        at, jpeg = frame
        await asyncio.sleep(began + at - time.monotonic())
        await live.send_picture(jpeg, at)
        if waiting and at >= waiting[0].time:
            question = waiting.pop(0)
            asked.put_nowait(Asked(question, await live.ask(question.text)))
    for question in waiting:
        asked.put_nowait(Asked(question, await live.ask(question.text)))
    await live.end_media()


async def tell(asked: Asked, console: Console) -> bool:
    """Prints an answer as it comes, and the truth below it. Returns whether the answer names the true value."""
    question, answer = asked.question, asked.answer
    console.print(Text.assemble((f"\n{_clock(question.time)}  ", "dim"), (question.text, "bold")))
    console.print("      answer  ", end="", style="cyan")
    async for delta in answer:
        console.print(Text(delta.text), end="")
    result = await answer.result()
    right = _names(result.text, question.value)
    first = f"   ({result.timing.first_token_ms:.0f} ms to the first word)"
    console.print(Text.assemble((first, "dim"), "\n", ("      truth   ", "cyan"), question.truth, " "), end="")
    console.print(Text("✓" if right else "✗", "green" if right else "red"))
    return right


async def demonstrate(console: Console, seed: int, seconds: float, model: str | None) -> None:
    """The whole demo. Raises DemoFailed or LonglookError where it cannot go on."""
    with TemporaryDirectory(prefix="longlook-demo-") as name:
        folder = Path(name)
        with console.status("rendering a clip that nobody has seen ..."):
            clip, questions = await render(seed, seconds, folder)
        console.print(f"A new clip of {seconds:.0f} s, seed {seed}, rendered just now.")
        async with serving(model, folder / "serve.log", console) as client:
            console.print(f"A whole server at {client.url}: bus, worker and gateway.")
            async with await client.create_session(wait=START_SECONDS) as session, session.live() as live:
                right = await watch(live, clip, questions, console)
        console.print(f"\n{right} of {QUESTIONS} answers name the true value. Everything is stopped again.")


async def watch(live: AsyncLiveSession, clip: Path, questions: list[Question], console: Console) -> int:
    asked: asyncio.Queue[Asked] = asyncio.Queue(QUESTIONS)
    async with asyncio.TaskGroup() as group:
        group.create_task(play(live, clip, questions, asked))
        told = []
        for _ in questions:
            with console.status("watching ..."):
                next_asked = await asked.get()
            told.append(await tell(next_asked, console))
    return sum(told)


def _names(text: str, value: str) -> bool:
    return re.search(rf"\b{re.escape(value.lower())}\b", text.lower()) is not None


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run(
    seed: Annotated[int | None, typer.Option(help="of the clip; default: a random one")] = None,
    seconds: Annotated[float, typer.Option(min=10.0, help="length of the clip")] = 30.0,
    model: Annotated[str | None, typer.Option(help="default: the bundled model")] = None,
) -> None:
    """Start everything, stream a clip that nobody has seen, ask three questions, print answers and truth."""
    console = Console(highlight=False)
    try:
        asyncio.run(demonstrate(console, secrets.randbelow(2**31) if seed is None else seed, seconds, model))
    except* (DemoFailed, LonglookError) as failed:
        for error in _leaves(failed):
            console.print(Text(f"The demo failed: {error}", "red"))
        raise typer.Exit(1) from None
    except* KeyboardInterrupt:
        raise typer.Exit(130) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


if __name__ == "__main__":
    typer.run(run)
