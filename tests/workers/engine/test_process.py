"""The engine process and the worker's end of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.workers.engine.rig import FAR, picture
from workers.engine.client import ClientLimits, EngineClient, EngineDied
from workers.engine.messages import (
    AskQuestion,
    Event,
    FrameTaken,
    OpenSession,
    PushFrame,
    QuestionDone,
    Refused,
    Stats,
    Tokens,
)

pytestmark = pytest.mark.e2e

OPEN = OpenSession(session_id="s", budget_tokens=512, policy="window", instructions="Watch.", complete=False)
ASK = AskQuestion(session_id="s", question_id="q", text="What now?", at_ms=1000, wait_until=FAR, max_tokens=4)


@pytest.fixture(scope="module")
def folder(tiny_qwen25vl: Callable[..., Any]) -> Path:
    folder: Path = tiny_qwen25vl(seed=1).folder
    return folder


def arguments(folder: Path) -> list[str]:
    return ["--model", str(folder), "--pool-tokens", "2048", "--threads", "1"]


async def push(client: EngineClient, t_ms: int) -> None:
    slot = await client.acquire_slot()
    client.pixels(slot, 112, 112)[:] = picture(t_ms)
    frame = PushFrame(session_id="s", sequence=t_ms, t_ms=t_ms, slot=slot, width=112, height=112, deadline=FAR)
    await client.send(frame)


async def until(client: EngineClient, kind: type[Event], seen: list[Event]) -> None:
    async for event in client.events():
        seen.append(event)
        if isinstance(event, kind):
            return


async def test_frames_and_a_question_through_the_socket(folder: Path) -> None:
    seen: list[Event] = []
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder), ClientLimits(slots=2))
        assert client.ready.card.tokens_per_frame == 16
        await client.send(OPEN)
        await client.send(ASK)
        for t_ms in (0, 1000, 2000, 3000):
            await push(client, t_ms)
        await until(client, QuestionDone, seen)
        await client.close()
        seen += [event async for event in client.events()]
    done = next(event for event in seen if isinstance(event, QuestionDone))
    assert done.as_of_ms == 1000
    assert [event.sequence for event in seen if isinstance(event, FrameTaken)] == [0, 1000, 2000, 3000]
    assert client.statistics.events_waiting == 1  # the end mark


async def test_the_engine_says_why_it_cannot_start(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        with pytest.raises(EngineDied, match="is no Hugging Face model folder"):
            await EngineClient.start(group, arguments(tmp_path))


async def test_every_verb_tells_of_the_engines_death(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder), ClientLimits(slots=1))
        await client.acquire_slot()
        os.kill(client._process.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match="status -9"):
            async for _ in client.events():
                pass
        for verb in (client.send(OPEN), client.acquire_slot()):
            with pytest.raises(EngineDied):
                await verb
        await client.close()


async def test_refusals_come_back(folder: Path) -> None:
    seen: list[Event] = []
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder))
        await client.send(ASK)
        await until(client, Refused, seen)
        await client.close()
    refusal = seen[-1]
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.question_id) == ("unknown_session", "q")


async def test_an_engine_that_falls_silent_is_dead(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder), ClientLimits(silence_seconds=2.5))
        await until(client, Stats, [])
        client._process.send_signal(signal.SIGSTOP)
        with pytest.raises(EngineDied, match="said nothing for"):
            async for _ in client.events():
                pass
        await client.close()


async def test_a_stopped_engine_does_not_hold_up_the_end(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder), ClientLimits(stop_seconds=0.5))
        client._process.send_signal(signal.SIGSTOP)
        await client.close()
    assert client._process.returncode == -signal.SIGKILL


async def test_the_last_work_is_known_after_the_engines_death(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder), ClientLimits(slots=2))
        await client.send(OPEN)
        await client.send(msgspec.structs.replace(ASK, at_ms=0, max_tokens=200, remember=False))
        await push(client, 0)
        await until(client, Tokens, [])
        client._process.kill()
        with pytest.raises(EngineDied):
            async for _ in client.events():
                pass
        assert client.working == ["s"]
        await client.close()
