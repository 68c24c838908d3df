"""What is stored of a session, through a real gateway: media over a socket, frames, clips and texts over REST."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from websockets.asyncio.client import connect

from server.settings import JournalSettings
from tests.server.conftest import OTHER_KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.journal import scenes
from tests.server.journal.shelf import SERVER_KEY
from tests.server.wire import H264, JPEG, answer, chunk, hear, picture, say, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def journal_settings(tmp_path: Path) -> JournalSettings:
    return JournalSettings(dir=tmp_path / "journal", key=SecretStr(SERVER_KEY.hex()), segment_bytes=20_000)


async def feed(gateway: Served, session: dict[str, Any], codec: int, pictures: list[bytes]) -> None:
    """Send pictures ``scenes.RATE`` a second by capture time, and wait until all are in their lane."""
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        ready = await hear(socket, "session.ready")
        assert ready["stored"] == ["media", "frames", "texts"]
        for number, data in enumerate(pictures):
            await socket.send(chunk(codec, number, number / scenes.RATE, data))
        await say(socket, type="media.end")
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == len(pictures) - 1)


async def get(gateway: Served, session: dict[str, Any], what: str, **query: int) -> httpx.Response:
    path = f"/v1/sessions/{session['id']}/{what}"
    return await gateway.http.get(path, params={name.rstrip("_"): value for name, value in query.items()})


async def stored(gateway: Served, session: dict[str, Any], kind: str, records: int) -> dict[str, Any]:
    """The recording's extent of a kind, once it holds so many records."""
    found: dict[str, Any] = {}

    async def enough() -> bool:
        for extent in (await get(gateway, session, "recording")).json()["holds"]:
            if extent["kind"] == kind:
                found.update(extent)
        return bool(found.get("records", 0) >= records)

    await until(enough)
    return found


async def test_a_span_of_h264_comes_back_as_it_went_in(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=2, ingest="complete", store={"retention_hours": 24})
    assert session["settings"]["store"] == {"retention_hours": 24.0}
    units = scenes.units("h264", 60, key_every=10)
    await feed(gateway, session, H264, units)
    extent = await stored(gateway, session, "media", 60)
    assert (extent["codec"], extent["from_ms"], extent["to_ms"]) == ("h264", 0, 5900)
    reply = await get(gateway, session, "clips", from_=2_350, to=4_420)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "video/mp4")
    assert (reply.headers["x-clip-start-ms"], reply.headers["x-clip-source"]) == ("2000", "media")
    reference = scenes.decoded(units, "h264")
    clip = scenes.played(reply.content)
    assert [round(second, 3) for second, _ in clip] == [number / 10 for number in range(25)]
    assert min(scenes.psnr(shown, reference[20 + n]) for n, (_, shown) in enumerate(clip)) > 60
    assert scenes.psnr(clip[0][1], reference[21]) < 30


async def test_frames_at_a_moment_and_their_thumbnails(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=2, ingest="complete", store="forever")
    units = scenes.units("h264", 30)
    await feed(gateway, session, H264, units)
    await stored(gateway, session, "frames", 6)
    reference = scenes.decoded(units, "h264")
    for at, t_ms in [(0, 0), (499, 0), (500, 500), (1_700, 1_500), (99_000, 2_500)]:
        reply = await get(gateway, session, "frames", at=at)
        assert (reply.status_code, reply.headers["x-session-time-ms"]) == (200, str(t_ms))
        size = (64, 48)  # the model's
        expected = Image.fromarray(reference[t_ms // 100].astype("uint8")).resize(size, Image.Resampling.BOX)
        out = io.BytesIO()
        expected.save(out, "JPEG", quality=95)
        likeness = {t: scenes.psnr(scenes.pixels_of(reply.content), scenes.pixels_of(out.getvalue())) for t in [t_ms]}
        assert likeness[t_ms] > 28
    small = await get(gateway, session, "frames", at=0, width=32)
    assert Image.open(io.BytesIO(small.content)).size == (32, 24)
    newest = await get(gateway, session, "frames")
    assert newest.headers["x-session-time-ms"] == "2500"
    assert (await get(gateway, session, "frames", at=0, width=3)).status_code == 400
    assert (await get(gateway, session, "frames", at=0, track=9)).status_code == 404


async def test_pictures_that_are_no_video_make_a_clip_of_sampled_frames(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=4, ingest="complete", store="forever")
    colours = ["red", "green", "blue", "white"]
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        for number, colour in enumerate(colours):
            await socket.send(chunk(JPEG, number, number, picture(colour)))
        await say(socket, type="media.end")
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == 3)
    await stored(gateway, session, "frames", 4)
    reply = await get(gateway, session, "clips", from_=500, to=2_500)
    assert (reply.headers["x-clip-start-ms"], reply.headers["x-clip-source"]) == ("500", "frames")
    clip = scenes.played(reply.content)
    assert [round(second, 3) for second, _ in clip] == [0.0, 0.5, 1.5]
    for (_, shown), colour in zip(clip, ["red", "green", "blue"], strict=True):
        still = Image.new("RGB", (64, 48), colour)
        out = io.BytesIO()
        still.save(out, "JPEG", quality=95)
        assert scenes.psnr(shown, scenes.pixels_of(out.getvalue())) > 35


async def test_what_was_asked_and_answered_is_kept(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(store="forever")
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await answer(socket, "what colour is it?", id="q1")
        await socket.send(chunk(JPEG, 1, 3, picture("blue")))
        await answer(socket, "and now?", id="q2")
    await stored(gateway, session, "texts", 4)
    texts = (await get(gateway, session, "texts")).json()["data"]
    assert [(t["question"], t["kind"], t["at_ms"], t["text"]) for t in texts] == [
        ("q1", "question", 0, "what colour is it?"),
        ("q1", "answer", 0, "red"),
        ("q2", "question", 3000, "and now?"),
        ("q2", "answer", 3000, "blue"),
    ]
    later = (await get(gateway, session, "texts", from_=1)).json()["data"]
    assert [t["question"] for t in later] == ["q2", "q2"]


async def test_a_closed_session_keeps_its_recording_and_a_deleted_one_does_not(
    gateway: Served, worker: FakeWorker
) -> None:
    session = await gateway.open(store="forever")
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await answer(socket)
    path = f"/v1/sessions/{session['id']}"
    assert (await gateway.http.post(f"{path}/close")).status_code == 204
    await stored(gateway, session, "frames", 1)
    listed = (await gateway.http.get("/v1/recordings")).json()["data"]
    assert [(r["session"], r["retention_hours"]) for r in listed] == [(session["id"], None)]
    await worker.bus._connection.command("DEL", f"ll:{{{session['id']}}}:session")  # as after ten minutes
    assert (await gateway.http.get(path)).status_code == 404
    assert (await get(gateway, session, "frames")).status_code == 200
    bob = gateway.auth(OTHER_KEY)
    assert (await gateway.http.get(f"{path}/recording", headers=bob)).status_code == 404
    assert (await gateway.http.get("/v1/recordings", headers=bob)).json()["data"] == []
    assert (await gateway.http.delete(path, headers=bob)).status_code == 404
    assert (await gateway.http.delete(path)).status_code == 204
    assert (await gateway.http.delete(path)).status_code == 404
    assert (await get(gateway, session, "recording")).status_code == 404
    assert (await gateway.http.get("/v1/recordings")).json()["data"] == []


async def test_a_session_that_did_not_ask_stores_nothing(
    gateway: Served, worker: FakeWorker, journal_settings: JournalSettings
) -> None:
    session = await gateway.open()
    assert (session["settings"]["store"], session["stored"]) == ("off", [])
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        assert (await hear(socket, "session.ready"))["stored"] == []
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await answer(socket)
    assert (await get(gateway, session, "frames")).status_code == 404
    assert journal_settings.dir is not None
    assert [path for path in journal_settings.dir.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "store", ["always", {"retention_hours": 0}, {"retention_hours": "long"}, {"hours": 3}, {"retention_hours": 1e9}, 5]
)
async def test_a_wish_that_cannot_be_met_is_refused(gateway: Served, worker: FakeWorker, store: object) -> None:
    reply = await gateway.http.post("/v1/sessions", json={"store": store})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_request")


async def test_spans_and_moments_are_checked(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(store="forever")
    for query in ({"from_": 5, "to": 5}, {"from_": 5, "to": 4}, {"from_": 0, "to": 3_600_001}, {"from_": -1, "to": 5}):
        assert (await get(gateway, session, "clips", **query)).status_code == 400
    assert (await get(gateway, session, "clips", from_=0, to=5)).status_code == 404
    assert (await get(gateway, session, "frames", at=0)).status_code == 404
    assert (await get(gateway, {"id": "nonsense"}, "frames")).status_code == 404
