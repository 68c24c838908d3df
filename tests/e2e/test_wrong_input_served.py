"""The wrong inputs against all of ``longlook serve`` with the bundled model; another session stays as it was."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from launcher.serving import Serving, serving
from tests.server.wire import JPEG, answer, chunk, hear, picture, say, video_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SEED = 11
SESSIONS = 3
QUESTION = "What is there now?"


class Bystander:
    """A session that is asked the same about the same pictures again and again: with greedy sampling and nothing
    remembered, only a disturbance can change its answer.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._text: str | None = None

    async def watch(self) -> None:
        for second, colour in enumerate(["red", "blue", "white"]):
            await self._socket.send(chunk(JPEG, second, second, picture(colour, size=(224, 224))))
        await hear(self._socket, lambda e: e["type"] == "session.health" and e["trunk_time_ms"] == 2000, 60)

    async def is_undisturbed(self) -> None:
        done = await answer(self._socket, QUESTION, remember=False, max_tokens=12)
        assert done["type"] == "answer.done"
        assert done["text"]
        self._text = self._text or done["text"]
        assert done["text"] == self._text


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "serve.log", environment={"LONGLOOK_MAX_SESSIONS": str(SESSIONS)}) as running:
        yield running


def named(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


async def refused(address: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(address, additional_headers=headers)
    return refusal.value.response.status_code, json.loads(refusal.value.response.body)["error"]["code"]


async def test_wrong_inputs_disturb_nobody(server: Serving) -> None:
    auth = {"authorization": f"Bearer {server.key}"}
    live = server.url.replace("http", "ws") + "/v1/live"
    async with httpx.AsyncClient(base_url=server.url, headers=auth, timeout=60) as http:
        mine, other = [(await http.post("/v1/sessions", json={})).json() for _ in range(2)]
        async with connect(f"{live}?session={mine['id']}&token={mine['connect_token']}") as socket:
            bystander = Bystander(socket)
            await bystander.watch()
            await bystander.is_undisturbed()
            await check_doors(live, mine, other, auth)
            await bystander.is_undisturbed()
            await check_sockets(live, other, auth)
            await bystander.is_undisturbed()
            await check_requests(http, other)
            await bystander.is_undisturbed()


async def check_doors(live: str, mine: dict[str, Any], other: dict[str, Any], auth: dict[str, str]) -> None:
    """No key, a wrong one, a used token, an unknown session."""
    assert await refused(f"{live}?session={mine['id']}") == (401, "unauthorized")
    wrong = {"authorization": "Bearer not-the-key-at-all"}
    assert await refused(f"{live}?session={mine['id']}", **wrong) == (401, "unauthorized")
    assert await refused(f"{live}?session={mine['id']}&token={mine['connect_token']}") == (401, "token_used")
    assert await refused(f"{live}?session={mine['id']}&token={other['connect_token']}") == (401, "unauthorized")
    assert await refused(f"{live}?session=s_{'0' * 24}", **auth) == (404, "not_found")


async def check_sockets(live: str, session: dict[str, Any], auth: dict[str, str]) -> None:
    """Messages that are too large, no chunk, no picture; a question of a megabyte."""
    address = f"{live}?session={session['id']}"
    for wrong, code in ((bytes((8 << 20) + 17), 1009), (bytes(20), 1007), ("{", 1007)):
        with pytest.raises(ConnectionClosed) as closed:
            await _send_and_hear_out(address, auth, wrong)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
    async with connect(address, additional_headers=auth) as socket:
        await socket.send(chunk(JPEG, 0, 0, b"\xff\xd8\xff" + random.Random(SEED).randbytes(3000)))
        error = await hear(socket, "error")
        assert (error["error"]["code"], error["sequence"]) == ("bad_media", 0)
        await say(socket, type="question.create", question="x" * (1 << 20))
        assert (await hear(socket, "error"))["error"]["code"] == "too_large"
        await socket.send(chunk(JPEG, 1, 1, picture("red")))
        assert (await answer(socket, QUESTION, max_tokens=4))["type"] == "answer.done"


async def _send_and_hear_out(address: str, auth: dict[str, str], wrong: bytes | str) -> None:
    async with connect(address, additional_headers=auth) as socket:
        await socket.send(wrong)
        await hear(socket, "nothing")


async def check_requests(http: httpx.AsyncClient, session: dict[str, Any]) -> None:
    """A file without video, a question of a megabyte, an unknown model, a full worker."""
    path = f"/v1/sessions/{session['id']}"
    silent, kind = video_file(["red"] * 8, video=False, sound=True), {"content-type": "video/mp4"}
    assert named(await http.post(f"{path}/media", content=silent, headers=kind)) == (400, "no_video")
    assert named(await http.post(f"{path}/questions", json={"question": "x" * (1 << 20)})) == (413, "too_large")
    assert named(await http.post("/v1/sessions", json={"model": "nobody/has-this"})) == (404, "unknown_model")
    replies = await asyncio.gather(*(http.post("/v1/sessions", json={}) for _ in range(SESSIONS)))
    full = [reply for reply in replies if reply.status_code != 201]
    assert len(full) == 2, "two sessions are open already"
    for reply in full:
        assert named(reply) == (503, "no_capacity")
        assert int(reply.headers["retry-after"]) >= 1
