"""A bus that comes back without its data, under a gateway and a worker with all their parts but a model."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from launcher.valkey import bundled_binary
from tests.conformance.servers import Server
from tests.server.conftest import KEY
from tests.server.processes import GatewayProcess, child, gateway_process
from tests.server.wire import JPEG, Event, chunk, hear, picture, say, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AUTH = {"authorization": f"Bearer {KEY}"}


@dataclass
class Stand:
    bus: Server
    gateway: GatewayProcess
    worker: Popen[bytes]

    async def open(self, http: httpx.AsyncClient, **terms: object) -> str:
        reply = await http.post("/v1/sessions", json=terms)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def live(self, session_id: str) -> connect:
        return connect(f"{self.gateway.live_url}?session={session_id}", additional_headers=AUTH)

    def lose(self) -> None:
        """The bus is another one now, with nothing on it."""
        self.bus.kill()
        self.bus.start()

    async def until_ready(self, http: httpx.AsyncClient) -> None:
        async def ready() -> bool:
            reply = await http.get("/readyz")
            return reply.status_code == 200 and bool(reply.json()["workers"])

        await until(ready)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with (
        Server(bundled_binary(), tmp_path / "s.sock") as bus,
        gateway_process(bus.url) as gateway,
        child(["-m", "tests.chaos.standin"], {"LONGLOOK_REDIS_URL": bus.url}) as worker,
    ):
        yield Stand(bus, gateway, worker)


@pytest.fixture
async def http(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stand.gateway.url, headers=AUTH, timeout=30) as http:
        await stand.until_ready(http)
        yield http


def ends(question_id: str, event: Event) -> bool:
    return event["type"] in ("answer.done", "answer.failed") and event["id"] == question_id


async def ended(socket: ClientConnection, question_id: str) -> Event:
    return await hear(socket, lambda event: ends(question_id, event), 30)


async def test_a_live_session_goes_on_under_its_id_and_unbegun_questions_are_answered(
    stand: Stand, http: httpx.AsyncClient
) -> None:
    session_id = await stand.open(http)
    async with stand.live(session_id) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await socket.send(chunk(JPEG, 1, 4, picture("red")))
        await hear(socket, lambda e: e["type"] == "session.health" and e["trunk_time_ms"] == 4000)
        await say(socket, type="question.create", id="begun", question="And then?", max_tokens=1000)
        await hear(socket, "answer.delta")
        stand.worker.send_signal(signal.SIGSTOP)
        await say(socket, type="question.create", id="unbegun", question="What is there?", max_tokens=5)
        await hear(socket, "question.accepted")
        stand.lose()
        stand.worker.send_signal(signal.SIGCONT)
        failed = await ended(socket, "begun")
        assert failed["error"]["code"] == "log_lost"
        done = await ended(socket, "unbegun")
        assert (done["type"], done["usage"]["completion_tokens"]) == ("answer.done", 5)
        await socket.send(chunk(JPEG, 2, 6, picture("blue")))
        await hear(socket, lambda e: e["type"] == "session.health" and e["trunk_time_ms"] >= 6000)
        await say(socket, type="question.create", id="later", question="And now?", max_tokens=3)
        assert (await ended(socket, "later"))["type"] == "answer.done"
    assert (await http.get(f"/v1/sessions/{session_id}")).json()["state"] == "live"
    assert stand.worker.poll() is None, "the worker goes on"


async def test_the_client_is_told_what_is_lost_and_can_come_back(stand: Stand, http: httpx.AsyncClient) -> None:
    session_id = await stand.open(http)
    async with stand.live(session_id) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await socket.send(chunk(JPEG, 1, 4, picture("red")))
        await hear(socket, lambda e: e["type"] == "session.health" and e["trunk_time_ms"] == 4000)
        stand.lose()
        notice = await hear(socket, lambda e: e["type"] == "notice" and e["code"] == "log_lost", 30)
        assert notice["data"]["lost_ms"] == 4000
        token = (await hear(socket, "resume_token"))["token"]
    query = f"?session={session_id}&token={token}"
    async with connect(stand.gateway.live_url + query) as socket:
        assert (await hear(socket, "session.ready"))["resumed"] is True


async def test_what_must_lose_nothing_ends_and_a_new_session_can_be_opened(
    stand: Stand, http: httpx.AsyncClient
) -> None:
    session_id = await stand.open(http, ingest="complete")
    async with stand.live(session_id) as socket:
        await socket.send(chunk(JPEG, 0, 0, picture("red")))
        await hear(socket, lambda e: e["type"] == "session.health" and e["trunk_time_ms"] == 0)
        stand.lose()
        assert (await hear(socket, "session.closed", 30))["reason"] == "log_lost"
    await stand.until_ready(http)
    assert await stand.open(http)
