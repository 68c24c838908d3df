"""The live socket over a real bus, with a worker that names colours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol import keys
from protocol.bus import Bus
from protocol.codec import decode_lane
from protocol.messages import Sound
from server.routes import dialogue
from server.settings import Limits
from tests.e2e.eventually import eventually
from tests.server.conftest import KEY, OTHER_KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import H264, JPEG, PCM16, PNG, WEBP, answer, chunk, h264_units, hear, picture, say

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def live(gateway: Served, session: dict[str, Any], **query: str) -> AsyncIterator[ClientConnection]:
    """A socket of the session, past its greeting."""
    asked = "".join(f"&{name}={value}" for name, value in query.items())
    async with connect(
        f"{gateway.live_url}?session={session['id']}{asked}", additional_headers=gateway.auth()
    ) as socket:
        await hear(socket, "session.ready")
        yield socket


async def refusal(gateway: Served, path: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(gateway.live_url + path, additional_headers=headers):
            pass
    response = refused.value.response
    assert response.headers["x-request-id"].startswith("r_")
    return response.status_code, json.loads(response.body)["error"]["code"]


async def test_a_picture_goes_in_and_its_colour_comes_out(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        ready = await hear(socket, "session.ready")
        assert ready["settings"]["fps"] == 1.0
        assert ready["capabilities"] == {"vision": True, "audio": False}
        assert ready["resumed"] is False
        await socket.send(chunk(JPEG, 0, 5.0, picture("red")))
        ack = await hear(socket, "media.ack")
        assert (ack["track"], ack["sequence"], ack["received"]) == (0, 0, 1)
        await say(socket, type="question.create", id="q1", question="what colour?")
        await hear(socket, "question.accepted")
        started = await hear(socket, "answer.started")
        assert started["as_of_ms"] == 0
        done = await hear(socket, "answer.done")
        assert done["text"] == "red"
        assert done["event_id"].startswith("1-")


async def test_an_acknowledgement_waits_for_no_beat(
    gateway: Served, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue, "BEAT_S", 3600.0)
    async with live(gateway, await gateway.open()) as socket:
        for number in range(3):
            await socket.send(chunk(JPEG, number, 5.0 + number, picture("red")))
            while (await hear(socket, "media.ack"))["sequence"] < number:
                pass


@pytest.mark.parametrize(("codec", "form"), [(JPEG, "JPEG"), (PNG, "PNG"), (WEBP, "WEBP")])
async def test_every_picture_codec(gateway: Served, worker: FakeWorker, codec: int, form: str) -> None:
    session = await gateway.open()
    async with live(gateway, session) as socket:
        await socket.send(chunk(codec, 0, 0, picture("blue", form)))
        assert (await answer(socket))["text"] == "blue"


async def test_a_question_is_about_the_newest_picture_sent_before_it(gateway: Served, worker: FakeWorker) -> None:
    """Pictures are a second apart by capture time and arrive as fast as can be, each with a question behind it."""
    session = await gateway.open()
    colours = ["red", "green", "blue", "white", "black", "yellow"]
    async with live(gateway, session) as socket:
        for second, colour in enumerate(colours):
            await socket.send(chunk(JPEG, second, second, picture(colour)))
            await say(socket, type="question.create", id=f"q{second}", question="what colour?")
        answers = [await hear(socket, "answer.done") for _ in colours]
    found = {done["id"]: (done["text"], done["as_of_ms"]) for done in answers}
    assert found == {f"q{second}": (colour, 1000 * second) for second, colour in enumerate(colours)}


async def test_h264_is_decoded_and_sampled_at_the_sessions_rate(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=2.0, ingest="complete")
    units = h264_units(["red"] * 10 + ["blue"] * 10, key_every=20)
    async with live(gateway, session) as socket:
        for number, unit in enumerate(units):
            await socket.send(chunk(H264, number, number / 10, unit))
        await say(socket, type="media.end")
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == len(units) - 1)
        assert (await answer(socket, at_ms=0))["text"] == "red"
        assert (await answer(socket))["text"] == "blue"
    assert [t for t, _ in worker.owned[str(session["id"])].seen] == [0, 500, 1000, 1500]


async def test_a_lost_unit_asks_for_a_key_frame_and_decoding_goes_on_from_it(
    gateway: Served, worker: FakeWorker
) -> None:
    session = await gateway.open(fps=4.0, ingest="complete")
    units = h264_units(["red"] * 4 + ["green"] * 4, key_every=4)
    async with live(gateway, session) as socket:
        for number, unit in enumerate(units):
            if number != 1:
                await socket.send(chunk(H264, number, number / 4, unit))
        notice = await hear(socket, "notice")
        assert (notice["code"], notice["data"]) == ("need_keyframe", {"track": 0})
        assert (await answer(socket))["text"] == "green"


async def test_sound_is_resampled_cut_and_stamped(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    async with live(gateway, session) as socket:
        await say(socket, type="track.open", track=1, codec="pcm16", rate=48_000, channels=2)
        for number in range(10):
            await socket.send(chunk(PCM16, number, 7 + number / 20, bytes(4 * 2400), track=1))
        await say(socket, type="media.end")
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == 9)
        health = await hear(socket, lambda e: e["type"] == "session.health" and e["audio_ms"] >= 498)
    sounds = worker.owned[str(session["id"])].sounds
    assert [sound.t_ms for sound in sounds] == [0, 100, 200, 300, 400]
    assert sum(len(sound.pcm) for sound in sounds) == pytest.approx(16_000, abs=64)
    assert health["audio_ms"] == pytest.approx(500, abs=2)


async def test_a_dropped_socket_is_taken_up_again_without_loss(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["I", "see"]
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=gateway.auth()) as socket:
        ready = await hear(socket, "session.ready")
        token = ready["resume_token"]
        assert tuple(map(int, ready["last_event_id"].split("-"))) <= (1, 0)
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await say(socket, type="question.create", id="q1", question="what colour?")
        first = await hear(socket, "answer.started")
    query = f"?session={session['id']}&token={token}&last_event_id={first['event_id']}"
    async with connect(gateway.live_url + query) as socket:
        again = await hear(socket, "session.ready")
        assert (again["resumed"], again["last_event_id"]) == (True, first["event_id"])
        deltas = [await hear(socket, "answer.delta") for _ in range(3)]
        assert "".join(delta["text"] for delta in deltas) == "I see red"
        assert [delta["index"] for delta in deltas] == [0, 1, 2]
        assert (await hear(socket, "answer.done"))["text"] == "I see red"
    assert await refusal(gateway, query) == (401, "token_used")


async def test_a_chunk_or_question_sent_again_counts_once(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(ingest="complete")
    for ends in (1, 2):
        async with live(gateway, session) as socket:
            for second, colour in enumerate(["red", "green"]):
                await socket.send(chunk(JPEG, second, second, picture(colour)))
            await say(socket, type="question.create", id="q1", question="what colour?", at_ms=1000)
            reply = await hear(socket, lambda e: e["type"] in ("question.accepted", "error"))
            assert reply["type"] == "question.accepted"
            await say(socket, type="media.end")
            owned = await worker.saw(session["id"], lambda owned, ends=ends: len(owned.ends) == ends)  # type: ignore[misc]
    async with live(gateway, session) as socket:
        await say(socket, type="question.create", id="q1", question="another one?")
        error = await hear(socket, "error")
        assert (error["error"]["code"], error["id"]) == ("conflict", "q1")
        assert (await answer(socket))["text"] == "green"
    assert [t for t, _ in owned.seen] == [0, 1000]


async def test_a_newer_publisher_replaces_the_older(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    async with live(gateway, session) as older, live(gateway, session) as newer, live(gateway, session) as watcher:
        await older.send(chunk(JPEG, 0, 0, picture("red")))
        assert (await answer(older))["text"] == "red"
        await newer.send(chunk(JPEG, 0, 900, picture("green")))
        notice = await hear(older, "notice")
        assert notice["code"] == "replaced_publisher"
        with pytest.raises(ConnectionClosed) as closed:
            await hear(older, "nothing")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4409
        assert (await answer(watcher))["text"] == "green"


async def test_what_another_gateway_left_of_a_sound_is_all_that_is_taken(
    gateway: Served, worker: FakeWorker, bus: Bus
) -> None:
    """The session went to another gateway and came back: what that one has appended is not appended twice, and what
    this one had taken but not appended is taken again.
    """
    session = await gateway.open()
    async with live(gateway, session) as socket:
        await socket.send(chunk(PCM16, 0, 0, bytes(16_000)))
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == 0)
        generation = await bus.lanes.claim_publisher(session["id"])
        sound = Sound(t_ms=500, track=0, sequence=1, pcm=bytes(4800), arrived_at=0.0)
        await bus.lanes.append(session["id"], generation, 1, sound, lossless=False)
        for sequence in (1, 2):
            await socket.send(chunk(PCM16, sequence, sequence / 2, bytes(16_000)))
        await hear(socket, "notice")
    async with live(gateway, session) as socket:
        for sequence in (1, 2):
            await socket.send(chunk(PCM16, sequence, sequence / 2, bytes(16_000)))
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == 2)
    entries = await bus._connection.command("XRANGE", keys.lane(session["id"], "audio"), "-", "+")
    sounds = [decode_lane("audio", fields[b"m"]) for _, fields in entries]
    spans = [(sound.t_ms, sound.t_ms + len(sound.pcm) // 32) for sound in sounds if isinstance(sound, Sound)]
    assert spans[0][0] == 0
    assert spans[-1][1] == 1500
    assert all(end == start for (_, end), (start, _) in pairwise(spans)), spans


async def test_cancelling_and_closing(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["one"]
    worker.speaking.clear()
    async with live(gateway, session) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await say(socket, type="question.create", id="q1", question="what colour?")
        await hear(socket, "answer.started")
        await say(socket, type="question.cancel", id="q1")
        assert (await hear(socket, "answer.done"))["finish_reason"] == "cancelled"
        await say(socket, type="ping", t=17)
        assert (await hear(socket, "pong"))["t"] == 17
        await say(socket, type="session.close")
        assert (await hear(socket, "session.closed"))["reason"] == "client"
        assert await ending(socket) == 1000
    assert await refusal(gateway, f"?session={session['id']}", **gateway.auth()) == (410, "session_closed")


async def test_a_closed_session_tells_what_was_missed(gateway: Served, worker: FakeWorker) -> None:
    """Its client was away when it was closed: the ends of its questions are told all the same, and why it is over."""
    session = await gateway.open()
    worker.words = ["one"]
    worker.speaking.clear()
    async with live(gateway, session) as socket:
        await say(socket, type="question.create", id="q1", question="what colour?")
        last = (await hear(socket, "answer.started"))["event_id"]
    path = f"/v1/sessions/{session['id']}"

    async def shows(where: str, field: str, wanted: str) -> bool:
        return bool((await gateway.http.get(where)).json()[field] == wanted)

    worker.speaking.set()
    await eventually(lambda: shows(f"{path}/questions/q1", "status", "done"), 10)
    assert (await gateway.http.post(f"{path}/close")).status_code == 204
    await eventually(lambda: shows(path, "state", "closed"), 10)
    token = (await gateway.http.post(f"{path}/connect")).json()["connect_token"]
    assert await refusal(gateway, f"?session={session['id']}&token={token}") == (410, "session_closed")
    token = (await gateway.http.post(f"{path}/connect")).json()["connect_token"]
    async with connect(f"{gateway.live_url}?session={session['id']}&token={token}&last_event_id={last}") as socket:
        assert (await hear(socket, "answer.done"))["id"] == "q1"
        over = await hear(socket, "session.closed")
        assert await ending(socket) == 4410
    async with live(gateway, session, last_event_id=over["event_id"]) as socket:
        again = await hear(socket, "session.closed")
        assert again["reason"] == over["reason"]
        assert await ending(socket) == 4410


async def ending(socket: ClientConnection) -> int:
    """The code that the server closes with, now."""
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


async def test_health_counts_what_came_and_went(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=2.0)
    async with live(gateway, session) as socket:
        for number in range(11):
            await socket.send(chunk(JPEG, number, number / 10, picture("red")))
            await answer(socket, at_ms=0) if number % 5 == 0 else None
        health = await hear(socket, lambda e: e["type"] == "session.health" and e["frames_out"] == 3)
    assert health["frames_in"] == 11
    assert health["session_time_ms"] == 1000
    assert health["dropped"] == {}


async def test_another_origin_is_refused_before_the_handshake(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    path = f"?session={session['id']}"
    assert await refusal(gateway, path, **gateway.auth(), origin="https://evil.example") == (403, "forbidden_origin")
    own = gateway.url
    async with connect(gateway.live_url + path, additional_headers={**gateway.auth(), "origin": own}) as socket:
        await hear(socket, "session.ready")


async def test_a_token_of_one_session_opens_no_other(gateway: Served, worker: FakeWorker) -> None:
    mine, other = await gateway.open(), await gateway.open()
    path = f"?session={mine['id']}&token={other['connect_token']}"
    assert await refusal(gateway, path) == (401, "unauthorized")
    assert await refusal(gateway, f"?session={mine['id']}", **gateway.auth(OTHER_KEY)) == (404, "not_found")
    assert await refusal(gateway, f"?session={mine['id']}", **gateway.auth(KEY[:-1])) == (401, "unauthorized")


@pytest.mark.parametrize("limits", [Limits(send_s=1.0)])
async def test_a_client_that_does_not_read_is_cut_off_and_slows_nobody(gateway: Served, worker: FakeWorker) -> None:
    slow, quick = await gateway.open(), await gateway.open()
    address = f"{gateway.live_url}?session={slow['id']}"
    async with live(gateway, quick) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        async with connect(address, additional_headers=gateway.auth(), max_queue=1, compression=None) as stuck:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(_say_without_end(stuck), 20)
        assert (await answer(socket))["text"] == "red"
    assert "longlook_slow_readers_total 1.0" in (await gateway.http.get("/metrics")).text


async def _say_without_end(socket: ClientConnection) -> None:
    while True:
        await say(socket, type="ping", t="x" * 60_000)
