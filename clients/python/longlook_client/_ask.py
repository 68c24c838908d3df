"""``longlook ask``: play one file as a session, ask about it, tell the answers as they come."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from longlook_client._background import beside
from longlook_client._client import AsyncClient
from longlook_client._errors import AnswerError
from longlook_client._options import SessionOptions
from longlook_client._session import AsyncSession
from longlook_client._types import AnswerResult, Delta, MediaReceipt

POLL_SECONDS: Final = 0.2
START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class AskPlan:
    """``at`` is the session time in seconds at which the questions are asked; ``None``: when all has been seen."""

    source: Path
    questions: tuple[str, ...]
    at: float | None = None
    fast: bool = False
    options: SessionOptions = field(default_factory=SessionOptions)


@dataclass
class AskReport:
    """What ``--json`` prints."""

    session: str
    model: str
    media: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(answer["status"] == "failed" for answer in self.answers)


Teller = Callable[[str], None]


async def ask(client: AsyncClient, plan: AskPlan, tell: Teller, console: Console) -> AskReport:
    """Runs the plan in a session of its own, which is closed at the end; ``tell`` gets the text as it comes."""
    async with await client.create_session(wait=START_SECONDS, **plan.options) as session:
        report = AskReport(session.id, session.info.model if session.info else "")
        with _progress(console) as progress:
            async with beside(_play(session, plan, progress)) as upload:
                await _reach(session, plan, upload)
                progress.stop()
                for question in plan.questions:
                    report.answers.append(await _answer(session, question, tell))
                if upload.done():
                    report.media = asdict(await upload)
    return report


async def _play(session: AsyncSession, plan: AskPlan, progress: Progress) -> MediaReceipt:
    bar = progress.add_task("sending", total=None)

    def sent(done: int, total: int) -> None:
        progress.update(bar, completed=done, total=total)
        if done == total:
            progress.update(bar, description="watching", completed=0, total=None)

    return await session.upload(plan.source, pace="fast" if plan.fast else "realtime", wait=True, progress=sent)


async def _reach(session: AsyncSession, plan: AskPlan, upload: asyncio.Task[MediaReceipt]) -> None:
    """Returns when the stream has reached the time to ask, or has ended; raises what ended the upload."""
    while plan.at is not None and not upload.done():
        health = await session.health()
        if (health.session_time_ms or 0.0) >= plan.at * 1000:
            return
        await asyncio.wait([upload], timeout=POLL_SECONDS)
    await upload


async def _answer(session: AsyncSession, question: str, tell: Teller) -> dict[str, Any]:
    started = time.monotonic()
    result = AnswerResult("", status="failed", question=question)
    try:
        tell(f"? {question}\n")
        async for item in session.stream(question):
            if isinstance(item, Delta):
                tell(item.text)
            else:
                result = item
        tell("\n")
    except AnswerError as error:
        tell(f"\nno answer: {error}\n")
        result = AnswerResult("", status="failed", question=question, error={"code": error.code, "message": str(error)})
    return asdict(result) | {"seconds": round(time.monotonic() - started, 3)}


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def tell_on_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
