"""``longlook watch``: a file plays as a live stream while a person asks about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from longlook_client._ask import START_SECONDS
from longlook_client._background import beside
from longlook_client._client import AsyncClient
from longlook_client._errors import LonglookError, ServerError
from longlook_client._keys import Editor, piped_lines, typed_lines
from longlook_client._live import AsyncLiveSession
from longlook_client._options import SessionOptions
from longlook_client._screen import Exchange, Screen
from longlook_client._session import AsyncSession
from longlook_client._types import Connection, Health, Notice

REFRESH_PER_SECOND: Final = 8


async def watch(client: AsyncClient, source: Path, options: SessionOptions, console: Console) -> None:
    """Runs until the person leaves; raises what ended the stream before that."""
    editor = Editor()
    screen = Screen(source.name, editor)
    async with await client.create_session(wait=START_SECONDS, **options) as session, session.live() as live:
        async with beside(_play(session, source, screen)), beside(_follow(live, screen)):
            if console.is_terminal:
                with Live(screen, console=console, screen=True, refresh_per_second=REFRESH_PER_SECOND):
                    await _converse(live, screen, typed_lines(editor))
            else:
                await _converse(live, screen, piped_lines())
                for exchange in screen.exchanges:
                    console.print(exchange)


async def _converse(live: AsyncLiveSession, screen: Screen, lines: AsyncIterator[str]) -> None:
    async with asyncio.TaskGroup() as answers:
        async for line in lines:
            exchange = Exchange(line, "live" if screen.editor.live else "frozen")
            screen.exchanges.append(exchange)
            answers.create_task(_answer(live, exchange))


async def _play(session: AsyncSession, source: Path, screen: Screen) -> None:
    def sent(done: int, total: int) -> None:
        screen.status = f"sending {done / total:.0%}" if done < total else "playing"

    try:
        await session.upload(source, pace="realtime", wait=True, progress=sent)
        screen.status = "the video has ended; ask on"
    except LonglookError as error:
        screen.status = str(error)


async def _follow(live: AsyncLiveSession, screen: Screen) -> None:
    async for event in live.events():
        match event:
            case Health():
                screen.health = event
            case Notice():
                screen.status = event.message or event.code
            case Connection(connected):
                screen.status = "connected again" if connected else "reconnecting"
            case ServerError():
                screen.status = str(event)


async def _answer(live: AsyncLiveSession, exchange: Exchange) -> None:
    try:
        answer = await live.ask(exchange.question, mode=exchange.mode)
        async for delta in answer:
            exchange.text += delta.text
        exchange.as_of_ms = (await answer.result()).as_of_ms
    except LonglookError as error:
        exchange.text, exchange.failed = str(error), True
    exchange.done = True
