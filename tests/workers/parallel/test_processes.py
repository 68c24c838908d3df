"""An engine of two ranks as processes of their own: started, heard, and gone together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.workers.engine.rig import FAR, picture
from workers.engine.client import ClientLimits, EngineClient, EngineDied
from workers.engine.messages import AskQuestion, Event, OpenSession, PushFrame, QuestionDone, Stats

pytestmark = pytest.mark.e2e

OPEN = OpenSession(session_id="s", budget_tokens=512, policy="window", instructions="Watch.", complete=False)
ASK = AskQuestion(session_id="s", question_id="q", text="What now?", at_ms=1000, wait_until=FAR, max_tokens=4)


@pytest.fixture(scope="module")
def folder(tiny_qwen25vl: Callable[..., Any]) -> Path:
    folder: Path = tiny_qwen25vl(seed=1).folder
    return folder


def arguments(folder: Path, ranks: int, device: str = "cpu") -> list[str]:
    given = {"model": folder, "pool-tokens": 2048, "threads": 1, "tensor-parallel": ranks}
    given |= {"device": device, "dtype": "float32"}
    return [argument for name, value in given.items() for argument in (f"--{name}", str(value))]


async def answer(folder: Path, ranks: int, device: str) -> QuestionDone:
    """What an engine of so many ranks says of two pictures."""
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder, ranks, device), ClientLimits(slots=2))
        await client.send(OPEN)
        await client.send(ASK)
        for t_ms in (0, 1000):
            slot = await client.acquire_slot()
            client.pixels(slot, 112, 112)[:] = picture(t_ms)
            frame = PushFrame(session_id="s", sequence=t_ms, t_ms=t_ms, slot=slot, width=112, height=112, deadline=FAR)
            await client.send(frame)
        done: QuestionDone = await until(client, QuestionDone)
        others = followers(client)
        assert len(others) == ranks - 1
        await client.close()
        psutil.wait_procs(others, timeout=10)
        assert not any(other.is_running() for other in others)
    return done


async def until(client: EngineClient, kind: type[Any]) -> Any:
    event: Event
    async for event in client.events():
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the engine ended without {kind.__name__}")


def followers(client: EngineClient) -> list[psutil.Process]:
    return psutil.Process(client._process.pid).children()


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
            ],
        ),
    ],
)
async def test_two_ranks_read_the_pictures_and_answer_as_one_does(folder: Path, device: str) -> None:
    alone, together = [await answer(folder, ranks, device) for ranks in (1, 2)]
    assert (together.text, together.completion_tokens) == (alone.text, alone.completion_tokens)


@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (signal.SIGSTOP, signal.SIGKILL)], ids=["killed", "stopped"])
async def test_an_engine_ends_with_any_of_its_ranks(folder: Path, signals: tuple[signal.Signals, ...]) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder, 2), ClientLimits(slots=2))
        await until(client, Stats)
        (other,) = followers(client)
        for each in signals:
            os.kill(other.pid, each)
        with pytest.raises(EngineDied, match="rank 1 ended with status -9"):
            async for _ in client.events():
                pass
        await client.close()


async def test_the_others_end_with_the_first(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        client = await EngineClient.start(group, arguments(folder, 2), ClientLimits(slots=2))
        others = followers(client)
        client._process.kill()
        gone, left = await asyncio.to_thread(psutil.wait_procs, others, timeout=20)
        assert (len(gone), left) == (1, [])
        await client.close()


async def test_a_model_that_cannot_be_divided_is_refused(folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        with pytest.raises(EngineDied, match="4 query heads cannot be divided among 3 ranks"):
            await EngineClient.start(group, arguments(folder, 3))
