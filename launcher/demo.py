"""The demo: a whole server, a clip that nobody has seen, and three questions with their answers beside the truth.

``make demo``, or ``python -m launcher.demo [--seed N]``. Nothing is left running; the exit status is 0 only if the
server worked and every question was answered, be it rightly or wrongly.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import av
import typer
from PIL import Image
from rich.console import Console
from rich.text import Text

from launcher.child import stop
from launcher.serving import START_SECONDS, STOP_SECONDS, ServerFailed, logged, serving, tail
from longlook_client import AsyncAnswer, AsyncLiveSession, LonglookError
from protocol.errors import NoSandbox
from server.media.decoders import Nursery
from server.settings import Settings as GatewaySettings

RENDER_SECONDS: Final = 300.0
QUESTIONS: Final = 3
APART_SECONDS: Final = 3.0
ATTEMPTS: Final = 3


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


class TooFewQuestions(DemoFailed):
    """About one clip in a hundred has nothing to ask for long stretches."""


@dataclass(frozen=True)
class Question:
    """``time``: seconds of the clip. ``truth``: what is true then, by the script that the clip was made from."""

    kind: str
    time: float
    text: str
    truth: str
    value: str


def pick(truth: Path) -> list[Question]:
    """Three questions of different kinds, as far apart as the clip allows. TooFewQuestions where it has not."""
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
        raise TooFewQuestions("the clip has too few questions; try another seed")
    step = (len(picked) - 1) / (QUESTIONS - 1)
    return [picked[round(n * step)] for n in range(QUESTIONS)]


async def render_new(seconds: float, folder: Path) -> tuple[int, Path, list[Question]]:
    """A clip that nobody has seen, with its random seed."""
    for _ in range(ATTEMPTS):
        seed = secrets.randbelow(2**31)
        with suppress(TooFewQuestions):
            return seed, *await render(seed, seconds, folder)
    raise TooFewQuestions(f"{ATTEMPTS} clips had too few questions")


async def render(seed: int, seconds: float, folder: Path) -> tuple[Path, list[Question]]:
    """A clip from the seed, and questions about it."""
    clip, truth = folder / "clip.mp4", folder / "truth.json"
    arguments = ["--seed", str(seed), "--seconds", str(seconds), "--out", str(clip), "--truth", str(truth)]
    status = await _run_logged([sys.executable, "-m", "training.world", "render", *arguments], folder / "render.log")
    if status != 0:
        raise DemoFailed(f"the clip could not be rendered:\n{tail(folder / 'render.log')}")
    return clip, pick(truth)


async def _run_logged(command: list[str], log: Path) -> int:
    process = await logged(command, log)
    try:
        async with asyncio.timeout(RENDER_SECONDS):
            return await process.wait()
    except TimeoutError:
        return -1
    finally:
        await stop(process, seconds=STOP_SECONDS)


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
    right = names(result.text, question.value)
    first = f"   ({result.timing.first_token_ms:.0f} ms to the first word)"
    console.print(Text.assemble((first, "dim"), "\n", ("      truth   ", "cyan"), question.truth, " "), end="")
    console.print(Text("✓" if right else "✗", "green" if right else "red"))
    return right


async def check_sandbox(settings: GatewaySettings) -> None:
    """Raises DemoFailed where the gateway would refuse all pictures."""
    async with Nursery(unsafe=settings.unsafe_decoder) as nursery:
        try:
            nursery.check()
        except NoSandbox as error:
            raise DemoFailed(f"{error.message} (here: LONGLOOK_UNSAFE_DECODER=true make demo)") from error


async def demonstrate(console: Console, seed: int | None, seconds: float, model: str | None) -> None:
    """The whole demo. Raises DemoFailed or LonglookError where it cannot go on."""
    await check_sandbox(GatewaySettings())
    with TemporaryDirectory(prefix="longlook-demo-") as name:
        folder = Path(name)
        with console.status("rendering a clip that nobody has seen ..."):
            if seed is None:
                seed, clip, questions = await render_new(seconds, folder)
            else:
                clip, questions = await render(seed, seconds, folder)
        console.print(f"A new clip of {seconds:.0f} s, seed {seed}, rendered just now.")
        console.print("Starting the server ...")
        async with serving(folder / "serve.log", model=model) as server:
            console.print(f"A whole server at {server.url}: bus, worker and gateway.")
            async with await server.client.create_session(wait=START_SECONDS) as session, session.live() as live:
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


def names(text: str, value: str) -> bool:
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
        asyncio.run(demonstrate(console, seed, seconds, model))
    except* (DemoFailed, ServerFailed, LonglookError) as failed:
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
