"""Every wrong input, through a real socket against a gateway process of its own, while another session stays right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from launcher.valkey import bundled_binary
from tests.conformance.servers import Server
from tests.server.conftest import KEY, OTHER_KEY
from tests.server.processes import GatewayProcess, gateway_process, worker_process
from tests.server.wire import JPEG, PCM16, answer, chunk, hear, picture, say, until, video_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SEED = 20260
ALICE = {"authorization": f"Bearer {KEY}"}
BOB = {"authorization": f"Bearer {OTHER_KEY}"}
SESSIONS = 12  # what the worker takes; full_worker fills the rest


@dataclass
class Bystander:
    """Another session, asked after every wrong input: its pictures change, and its answers with them."""

    socket: ClientConnection
    colours: list[str] = field(default_factory=lambda: ["red", "lime", "blue", "white"])
    sent: int = 0

    async def is_right(self) -> None:
        colour = self.colours[self.sent % len(self.colours)]
        await self.socket.send(chunk(JPEG, self.sent, float(self.sent), picture(colour)))
        self.sent += 1
        expected = "green" if colour == "lime" else colour
        assert (await answer(self.socket))["text"] == expected


@dataclass
class Scene:
    gateway: GatewayProcess
    http: httpx.AsyncClient
    bystander: Bystander

    async def open(self, headers: dict[str, str] = ALICE) -> dict[str, Any]:
        reply = await self.http.post("/v1/sessions", json={}, headers=headers)
        assert reply.status_code == 201, reply.text
        body: dict[str, Any] = reply.json()
        return body

    @asynccontextmanager
    async def live(self, session: dict[str, Any]) -> AsyncIterator[ClientConnection]:
        address = f"{self.gateway.live_url}?session={session['id']}"
        async with connect(address, additional_headers=ALICE) as socket:
            await hear(socket, "session.ready")
            yield socket

    async def refused(self, query: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """How a socket is refused, before its handshake is answered."""
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"{self.gateway.live_url}?{query}", additional_headers=headers or {})
        response = refusal.value.response
        return response.status_code, json.loads(response.body)["error"]["code"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway and one worker for all tests: what one wrong input breaks, the next test finds broken."""
    with (
        Server(bundled_binary(), tmp_path_factory.mktemp("bus") / "s.sock") as bus,
        gateway_process(bus.url) as gateway,
        worker_process(bus.url, gateway, sessions=SESSIONS),
    ):
        yield gateway


@pytest.fixture
async def scene(stand: GatewayProcess) -> AsyncIterator[Scene]:
    async with httpx.AsyncClient(base_url=stand.url, headers=ALICE, timeout=30) as http:
        opened = (await http.post("/v1/sessions", json={})).json()
        address = f"{stand.live_url}?session={opened['id']}&token={opened['connect_token']}"
        async with connect(address) as socket:
            await hear(socket, "session.ready")
            scene = Scene(stand, http, Bystander(socket))
            await scene.bystander.is_right()
            yield scene
            await scene.bystander.is_right()
        for session in (await http.get("/v1/sessions")).json()["data"]:
            await http.delete(f"/v1/sessions/{session['id']}")
        await until(lambda: _all_closed(http))
    assert stand.process.poll() is None, "the gateway ended"


async def _all_closed(http: httpx.AsyncClient) -> bool:
    return all(session["state"] == "closed" for session in (await http.get("/v1/sessions")).json()["data"])


def named(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


async def test_keys_and_tokens(scene: Scene) -> None:
    """No key, a wrong key, a used token."""
    session = await scene.open()
    by_id = f"session={session['id']}"
    assert await scene.refused(by_id) == (401, "unauthorized")
    assert await scene.refused(by_id, {"authorization": f"Bearer {KEY}x"}) == (401, "unauthorized")
    assert await scene.refused(f"{by_id}&token=ct_made_up") == (401, "unauthorized")
    async with httpx.AsyncClient(base_url=scene.gateway.url) as nobody:
        assert named(await nobody.post("/v1/sessions", json={})) == (401, "unauthorized")
        assert named(await nobody.get("/v1/models", headers={"x-api-key": "wrong"})) == (401, "unauthorized")
    await scene.bystander.is_right()
    by_token = f"{by_id}&token={session['connect_token']}"
    async with connect(f"{scene.gateway.live_url}?{by_token}") as socket:
        await hear(socket, "session.ready")
    assert await scene.refused(by_token) == (401, "token_used")


async def test_sessions_of_nobody_and_of_others(scene: Scene) -> None:
    """An unknown session and another tenant's look alike."""
    session = await scene.open()
    unknown = f"session=s_{'0' * 24}"
    assert await scene.refused(unknown, ALICE) == (404, "not_found")
    assert await scene.refused("session=../../etc", ALICE) == (404, "not_found")
    assert await scene.refused(f"session={session['id']}", BOB) == (404, "not_found")
    path = f"/v1/sessions/{session['id']}"
    assert named(await scene.http.get(path, headers=BOB)) == (404, "not_found")
    assert named(await scene.http.post(f"{path}/questions", json={"question": "?"}, headers=BOB)) == (404, "not_found")


async def test_an_oversized_message(scene: Scene) -> None:
    session = await scene.open()
    async with scene.live(session) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(chunk(JPEG, 0, 0, bytes((8 << 20) + 1)))
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket, "nothing")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes(15),
        chunk(JPEG, 0, 0, b"x", version=9),
        chunk(99, 0, 0, b"x"),
        b"\xff" * 64,
    ],
    ids=["empty", "short", "version", "codec", "noise"],
)
async def test_a_bad_header(scene: Scene, message: bytes) -> None:
    session = await scene.open()
    async with scene.live(session) as socket:
        await socket.send(message)
        assert (await hear(socket, "error"))["error"]["code"] == "bad_header"
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket, "nothing")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


@pytest.mark.parametrize("text", ["{", "\x00", '{"x":' + "[" * 50_000])
async def test_text_that_is_not_json(scene: Scene, text: str) -> None:
    session = await scene.open()
    async with scene.live(session) as socket:
        await socket.send(text)
        assert (await hear(socket, "error"))["error"]["code"] == "bad_request"
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket, "nothing")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


async def test_commands_that_make_no_sense_leave_the_session_as_it_was(scene: Scene) -> None:
    session = await scene.open()
    async with scene.live(session) as socket:
        for command in (
            {"type": "no.such.thing"},
            {"type": "question.create"},
            {"type": "question.create", "question": 5},
            {"type": "question.create", "question": "?", "mode": "odd"},
            {"type": "track.open", "track": 1, "codec": "pcm16", "rate": -1},
        ):
            await say(socket, **command)
            assert (await hear(socket, "error"))["error"]["code"] in ("bad_request", "bad_media")
        await say(socket, type="question.cancel", id="q_unknown")
        error = await hear(socket, "error")
        assert (error["error"]["code"], error["id"]) == ("not_found", "q_unknown")
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        assert (await answer(socket))["text"] == "red"


async def test_random_bytes_as_pictures(scene: Scene) -> None:
    """Each is named by its track and sequence, and the session goes on."""
    session = await scene.open()
    source = random.Random(SEED)
    red = picture("red")
    wrong = [source.randbytes(size) for size in (1, 100, 5000)]
    wrong += [red[: len(red) // 2], red[:200] + source.randbytes(2000), b"\xff\xd8\xff" + source.randbytes(1000)]
    async with scene.live(session) as socket:
        for number, data in enumerate(wrong):
            await socket.send(chunk(JPEG, number, number, data))
            error = await hear(socket, "error")
            assert (error["error"]["code"], error["track"], error["sequence"]) == ("bad_media", 0, number)
            await scene.bystander.is_right()
        await socket.send(chunk(PCM16, 0, 1, b"odd", track=1))
        assert (await hear(socket, "error"))["error"]["code"] == "bad_media"
        await socket.send(chunk(JPEG, len(wrong), len(wrong), red))
        assert (await answer(socket))["text"] == "red"


async def test_files_that_are_none(scene: Scene) -> None:
    """A file with no video, and bytes that are no file."""
    session = await scene.open()
    path, kind = f"/v1/sessions/{session['id']}/media", {"content-type": "video/mp4"}
    silent = video_file(["red"] * 8, video=False, sound=True)
    assert named(await scene.http.post(path, content=silent, headers=kind)) == (400, "no_video")
    noise = random.Random(SEED).randbytes(100_000)
    assert named(await scene.http.post(path, content=noise, headers=kind)) == (415, "unsupported_media")
    cut = video_file(["red"] * 8)[:400]
    assert named(await scene.http.post(path, content=cut, headers=kind)) == (400, "bad_media")


async def test_a_question_of_a_megabyte(scene: Scene) -> None:
    session = await scene.open()
    path = f"/v1/sessions/{session['id']}/questions"
    long = "why " * (1 << 18)
    assert named(await scene.http.post(path, json={"question": long})) == (413, "too_large")
    assert named(await scene.http.post(path, json={"question": long[:9000]})) == (413, "question_too_long")
    async with scene.live(session) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await say(socket, type="question.create", question=long, id="q1")
        assert (await hear(socket, "error"))["error"]["code"] == "too_large"
        await say(socket, type="question.create", question=long[:9000], id="q2")
        error = await hear(socket, "error")
        assert (error["error"]["code"], error["id"]) == ("question_too_long", "q2")
        assert (await answer(socket))["text"] == "red"


async def test_an_unknown_model_and_a_full_worker(scene: Scene) -> None:
    unknown = await scene.http.post("/v1/sessions", json={"model": "nobody/has-this"})
    assert named(unknown) == (404, "unknown_model")
    replies = await asyncio.gather(*(scene.http.post("/v1/sessions", json={}) for _ in range(SESSIONS)))
    full = [reply for reply in replies if reply.status_code != 201]
    assert len(full) == 1, "the bystander has one place, the others all the rest"
    assert named(full[0]) == (503, "no_capacity")
    assert int(full[0].headers["retry-after"]) >= 1
    await scene.bystander.is_right()


async def test_no_worker_yet(tmp_path: Path) -> None:
    with Server(bundled_binary(), tmp_path / "s.sock") as bus, gateway_process(bus.url) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, headers=ALICE, timeout=30) as http:
            refused = await http.post("/v1/sessions", json={})
            assert named(refused) == (503, "starting")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await http.get("/v1/models")).json()["data"] == []
            with worker_process(bus.url, gateway):
                assert (await http.post("/v1/sessions", json={})).status_code == 201
