"""``longlook ask``: play one file as a session, ask about it, tell the answers as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from longlook_client._answer import AsyncAnswer
from longlook_client._background import beside
from longlook_client._client import AsyncClient
from longlook_client._errors import AnswerError
from longlook_client._live import AsyncLiveSession
from longlook_client._options import QuestionOptions, SessionOptions
from longlook_client._session import AsyncSession
from longlook_client._types import AnswerResult, MediaReceipt

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
    async with await client.create_session(wait=START_SECONDS, **plan.options) as session, session.live() as live:
        report = AskReport(session.id, session.info.model if session.info else "")
        with _progress(console) as progress:
            early = plan.at if plan.fast else None
            answers = [] if early is None else await _put(live, plan.questions, round(early * 1000))
            async with beside(_play(session, plan, progress)) as upload:
                if not answers:
                    await _reach(session, plan, upload)
                    answers = await _put(live, plan.questions, None)
                for answer in answers:
                    report.answers.append(await _tell_answer(answer, upload, tell, progress))
                if upload.done():
                    report.media = asdict(await upload)
    return report


async def _put(live: AsyncLiveSession, questions: tuple[str, ...], at_ms: int | None) -> list[AsyncAnswer]:
    """Asks all of them about one moment. A complete session holds back what comes after the moment of a question."""
    options: QuestionOptions = {} if at_ms is None else {"at_ms": at_ms}
    return [await live.ask(question, **options) for question in questions]


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


async def _tell_answer(
    answer: AsyncAnswer, upload: asyncio.Task[MediaReceipt], tell: Teller, progress: Progress
) -> dict[str, Any]:
    await _first_word(answer, upload)
    progress.stop()
    tell(f"? {answer.question}\n")
    try:
        async for delta in answer:
            tell(delta.text)
        result = await answer.result()
        tell("\n")
    except AnswerError as error:
        tell(f"\nno answer: {error}\n")
        told = {"code": error.code, "message": error.message}
        result = AnswerResult(answer.id, status="failed", question=answer.question, error=told)
    return asdict(result)


async def _first_word(answer: AsyncAnswer, upload: asyncio.Task[MediaReceipt]) -> None:
    """Waits until the answer has begun; an upload that fails before that is raised, for no answer will come."""
    async with beside(answer.begun()) as begun:
        await asyncio.wait([begun, upload], return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            await upload
            await begun


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def tell_on_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
