"""Media by REST, through real decoder processes, to a worker that names colours."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest

from server.settings import Limits
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import picture, until, video_file

pytestmark = pytest.mark.e2e


async def post(gateway: Served, session: dict[str, Any], kind: str, data: bytes, **query: str | int) -> httpx.Response:
    path = f"/v1/sessions/{session['id']}/media"
    params = {"wait": "true", **query}
    return await gateway.http.post(path, content=data, headers={"content-type": kind}, params=params, timeout=60)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.mark.parametrize(("form", "kind"), [("mp4", "video/mp4"), ("webm", "application/octet-stream")])
async def test_a_whole_file(gateway: Served, worker: FakeWorker, form: str, kind: str) -> None:
    session = await gateway.open(fps=2, ingest="complete")
    data = video_file(["red"] * 4 + ["blue"] * 4, form=form, sound=form == "mp4")
    taken = await post(gateway, session, kind, data)
    assert taken.status_code == 202, taken.text
    assert {**taken.json(), "media_id": ""} == {
        "accepted": True,
        "media_id": "",
        "kind": "file",
        "start_ms": 0,
        "frames": 4,
        "duration_ms": 2000,
        "damaged": 0,
    }
    owned = await worker.saw(session["id"], lambda owned: bool(owned.ends))
    assert owned.seen == [(0, "red"), (500, "red"), (1000, "blue"), (1500, "blue")]
    assert owned.ends == [1500]
    if form == "mp4":
        times = [sound.t_ms for sound in owned.sounds]
        assert times == sorted(times)
        assert sum(len(sound.pcm) for sound in owned.sounds) / 32 == pytest.approx(2000, abs=60)
    second = await post(gateway, session, kind, data)
    assert second.json()["start_ms"] > 1500


async def test_a_complete_session_waits_for_its_worker(gateway: Served, worker: FakeWorker) -> None:
    """The worker reads nothing at first: no more than the backlog is appended, and nothing is lost in the end."""
    session = await gateway.open(fps=4, ingest="complete")
    worker.reading.clear()
    colours = ["red", "blue"] * 60
    taking = asyncio.create_task(post(gateway, session, "video/mp4", video_file(colours)))
    backlog: int = gateway.server._app.state.gateway.settings.limits.backlog

    async def waiting() -> int:
        return (await worker.bus.lanes.backlog(session["id"]))["video"]

    async def full() -> bool:
        return await waiting() > backlog

    await until(full)
    assert await waiting() == backlog + 1
    worker.reading.set()
    assert (await taking).json()["frames"] == 120
    owned = await worker.saw(session["id"], lambda owned: len(owned.seen) == 120)
    assert [t for t, _ in owned.seen] == [250 * number for number in range(120)]


async def test_sound_by_rest(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    taken = await post(gateway, session, "audio/L16;rate=16000;channels=1", bytes(32_000))
    assert (taken.json()["kind"], taken.json()["duration_ms"]) == ("sound", 1000)
    await worker.saw(session["id"], lambda owned: len(owned.sounds) == 10)


async def test_what_cannot_be_media_is_named(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    noise = random.Random(7).randbytes(5000)
    red = picture("red")
    assert code(await post(gateway, session, "image/jpeg", noise)) == (415, "unsupported_media")
    assert code(await post(gateway, session, "image/jpeg", red[:40] + noise)) == (400, "bad_media")
    assert code(await post(gateway, session, "image/jpeg", red[: len(red) // 2])) == (400, "bad_media")
    assert code(await post(gateway, session, "image/jpeg", b"")) == (400, "bad_request")
    assert code(await post(gateway, session, "video/mp4", noise)) == (415, "unsupported_media")
    assert code(await post(gateway, session, "video/mp4", video_file(["red"])[:300])) == (400, "bad_media")
    silent = video_file(["red"] * 8, video=False, sound=True)
    assert code(await post(gateway, session, "video/mp4", silent)) == (400, "no_video")
    assert code(await post(gateway, session, "text/plain", b"hello")) == (415, "unsupported_media")
    assert code(await post(gateway, session, "audio/pcm;rate=1", bytes(10))) == (400, "bad_media")
    assert code(await post(gateway, session, "audio/pcm;rate=x", bytes(10))) == (400, "bad_request")
    assert code(await post(gateway, session, "audio/pcm", bytes(11))) == (400, "bad_media")
    assert (await post(gateway, session, "image/jpeg", red)).status_code == 202
    assert code(await post(gateway, session, "image/jpeg", red, at_ms=0)) == (400, "bad_request")
    answer = await gateway.http.post(f"/v1/sessions/{session['id']}/questions", json={"question": "what colour?"})
    assert answer.json()["text"] == "red"


@pytest.mark.parametrize("limits", [Limits(picture_pixels=10_000, file_bytes=2_000, message_bytes=100_000, sound_s=2)])
async def test_limits_on_size(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    assert code(await post(gateway, session, "image/png", picture("red", "PNG", (101, 100)))) == (413, "too_large")
    assert code(await post(gateway, session, "image/jpeg", bytes(100_001))) == (413, "too_large")
    assert code(await post(gateway, session, "video/mp4", video_file(["red"] * 40))) == (413, "too_large")
    assert (await post(gateway, session, "image/png", picture("red", "PNG", (100, 100)))).status_code == 202
    assert code(await post(gateway, session, "audio/pcm;rate=8000", bytes(32_002))) == (413, "too_large")
    assert (await post(gateway, session, "audio/pcm;rate=8000", bytes(32_000))).status_code == 202


async def test_a_pace_of_real_time_leaves_room_for_live_questions(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=4)
    data = video_file(["red"] * 4 + ["blue"] * 4)
    taken = await post(gateway, session, "video/mp4", data, wait="false", pace="realtime")
    assert "frames" not in taken.json()
    busy = await post(gateway, session, "video/mp4", data)
    assert code(busy) == (409, "conflict")
    owned = await worker.saw(session["id"], lambda owned: bool(owned.ends))
    arrived = [item.arrived_at for item in owned.pictures]
    assert arrived[-1] - arrived[0] >= 1.5
