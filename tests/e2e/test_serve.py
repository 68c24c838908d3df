"""``longlook serve`` as a user runs it, with a model of random weights, and with parts of it killed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from launcher.serving import Serving, serving
from longlook_client import AsyncLiveSession, LonglookError
from longlook_client._types import AnswerResult
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

PATIENT = {"LONGLOOK_LIMITS__UNOWNED_S": "90"}  # a worker needs long to start again on a busy machine
MINI = Path(__file__).parents[2] / "models" / "mini"
QUESTION = "What is there now?"


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's shape, smaller, with random weights: what it says means nothing."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("random")
    shape = json.loads((MINI / "config.json").read_text())
    shape["text_config"] |= {"num_hidden_layers": 2}
    shape["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**shape)).save_pretrained(folder)
    for file in MINI.glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, folder)
    return folder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(
        tmp_path_factory.mktemp("serve") / "serve.log", model=str(random_model), environment=PATIENT
    ) as running:
        yield running


def jpeg(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (320, 240), (grey, grey, grey)).save(stream, "JPEG")
    return stream.getvalue()


async def show(live: AsyncLiveSession, *seconds: int) -> None:
    for second in seconds:
        await live.send_picture(jpeg(second * 20 % 256), float(second))


async def watched(live: AsyncLiveSession, until_ms: int) -> None:
    async def seen() -> bool:
        return live.health is not None and (live.health.trunk_time_ms or 0) >= until_ms

    await eventually(seen, 60)


def part(server: Serving, *words: str) -> psutil.Process:
    """The server's process whose command line holds all ``words``."""
    family = psutil.Process(server.pid).children(recursive=True)
    return next(process for process in family if all(word in " ".join(process.cmdline()) for word in words))


async def answered(server: Serving, text: str = QUESTION) -> AnswerResult:
    """A new session's answer: tried until the server, part of which was killed, can give one."""
    results: list[AnswerResult] = []

    async def asked() -> bool:
        try:
            async with await server.client.create_session(wait=30) as session, session.live() as live:
                await show(live, 0, 1, 2)
                results.append(await (await live.ask(text, max_tokens=8)).result(30))
        except LonglookError:
            return False
        return True

    await eventually(asked, 90)
    return results[0]


async def test_pictures_go_in_and_an_answer_streams_out(server: Serving) -> None:
    async with await server.client.create_session() as session, session.live() as live:
        await show(live, 0, 1, 2, 3)
        await watched(live, 2000)
        answer = await live.ask(QUESTION, max_tokens=16)
        deltas = [delta async for delta in answer]
        result = await answer.result()
    assert [delta.index for delta in deltas] == list(range(len(deltas)))
    assert result.text == "".join(delta.text for delta in deltas)
    assert result.usage is not None
    assert 0 < result.usage.completion_tokens <= 16
    assert result.as_of_ms is not None
    assert result.as_of_ms >= 2000


async def test_a_killed_engine_costs_no_session_and_no_question(server: Serving) -> None:
    async with await server.client.create_session() as session, session.live() as live:
        await show(live, 0, 1, 2, 3)
        await watched(live, 3000)
        answer = await live.ask(QUESTION, max_tokens=256)
        await answer.begun()
        part(server, "workers.engine").kill()
        deltas = [delta async for delta in answer]
        assert (await answer.result(100)).text == "".join(delta.text for delta in deltas)
        indices = [index for delta in deltas for index in range(delta.index, delta.index + len(delta.token_ids))]
        assert indices == list(range(len(indices)))
        await show(live, 4, 5)
        later = await (await live.ask(QUESTION, max_tokens=8)).result(100)
        assert later.as_of_ms is not None
        assert later.as_of_ms >= 4000


async def test_a_killed_worker_is_replaced(server: Serving) -> None:
    async with await server.client.create_session() as session, session.live() as live:
        await show(live, 0, 1, 2, 3)
        await watched(live, 3000)
        part(server, "launcher.cli worker").kill()
        result = await (await live.ask(QUESTION, max_tokens=8)).result(100)
        assert result.finish_reason in ("stop", "length")
        assert result.as_of_ms is not None
        assert result.as_of_ms >= 2000


async def test_a_killed_bus_comes_back_empty_and_the_session_begins_anew(server: Serving) -> None:
    async with await server.client.create_session() as session, session.live() as live:
        await show(live, 0, 1)
        await watched(live, 1000)
        part(server, "valkey-server").kill()

        async def goes_on() -> bool:
            try:
                await session.refresh()
                await show(live, 5, 6)
                return bool((await (await live.ask(QUESTION, max_tokens=8)).result(30)).text)
            except LonglookError:
                return False

        await eventually(goes_on, 90)
        assert live.reconnects == 0
    assert (await answered(server)).text


async def test_a_killed_launcher_leaves_nothing_running(random_model: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "serve.log", model=str(random_model), environment=PATIENT) as server:
        launcher = psutil.Process(server.pid)
        family = launcher.children(recursive=True)
        names = " ".join(" ".join(process.cmdline()) for process in family)
        for name in ("valkey-server", "launcher.cli worker", "launcher.cli gateway", "workers.engine"):
            assert name in names
        launcher.kill()
        _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []


async def test_asked_to_end_everything_ends_in_order(random_model: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "serve.log", model=str(random_model), environment=PATIENT) as server:
        family = psutil.Process(server.pid).children(recursive=True)
        async with await server.client.create_session() as session, session.live() as live:
            await show(live, 0, 1, 2)
            answer = await live.ask(QUESTION, max_tokens=64)
            await answer.begun()
            os.kill(server.pid, signal.SIGTERM)
            result = await answer.result(100)
        assert result.finish_reason in ("stop", "length")
        _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


async def test_a_model_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.cli", "serve", "--port", "0", "--model", str(tmp_path / "none")]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode == 1
    assert b"no model" in err
    assert b"worker cannot start" in out
