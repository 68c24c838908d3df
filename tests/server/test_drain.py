"""A gateway process that is told to go, and a bus that goes away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from launcher.valkey import bundled_binary
from protocol.bus import Bus
from tests.conformance.servers import Server
from tests.server.conftest import KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.processes import GatewayProcess, gateway_process
from tests.server.wire import JPEG, PCM16, answer, chunk, hear, picture, say, until

pytestmark = pytest.mark.e2e

AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def apart(valkey_url: str, bus: Bus) -> Iterator[GatewayProcess]:
    """Name it before the worker: while it starts, the tests' own loop stands still, and so would the worker."""
    with gateway_process(valkey_url) as gateway:
        yield gateway


async def test_sigterm_lets_answers_end_and_tells_clients(apart: GatewayProcess, worker: FakeWorker) -> None:
    worker.words = ["one"]
    worker.speaking.clear()
    async with httpx.AsyncClient(base_url=apart.url, headers=AUTH) as http:
        session = (await http.post("/v1/sessions", json={})).json()
        async with connect(f"{apart.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
            await socket.send(chunk(JPEG, 0, 0, picture("red")))
            await say(socket, type="question.create", question="what colour?")
            await hear(socket, "answer.started")
            apart.process.send_signal(signal.SIGTERM)
            notice = await hear(socket, "notice")
            assert notice["code"] == "draining"
            assert (await http.get("/readyz")).status_code == 503
            refused = await http.post("/v1/sessions", json={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_capacity")
            await asyncio.sleep(1.5)  # longer than a gateway without questions stays: this one waits
            worker.speaking.set()
            assert (await hear(socket, "answer.done"))["text"] == "one red"
            with pytest.raises(ConnectionClosed) as closed:
                await hear(socket, "nothing")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    assert await asyncio.to_thread(apart.process.wait, 10) == 0


async def test_a_second_signal_does_not_wait(apart: GatewayProcess, worker: FakeWorker) -> None:
    worker.words = ["one"]
    worker.speaking.clear()
    async with httpx.AsyncClient(base_url=apart.url, headers=AUTH) as http:
        session = (await http.post("/v1/sessions", json={})).json()
        async with connect(f"{apart.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
            await say(socket, type="question.create", question="what colour?")
            await hear(socket, "answer.started")
            apart.process.send_signal(signal.SIGTERM)
            await hear(socket, "notice")
            apart.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await hear(socket, "nothing")
    assert await asyncio.to_thread(apart.process.wait, 5) == 0


async def test_a_bus_that_comes_back_empty_without_workers_ends_its_sessions_by_name(tmp_path: Path) -> None:
    with (
        Server(bundled_binary(), tmp_path / "s.sock") as bus,
        gateway_process(bus.url, LONGLOOK_LIMITS__UNOWNED_S="2") as gateway,
    ):
        async with httpx.AsyncClient(base_url=gateway.url, headers=AUTH, timeout=30) as http:
            mine = await Bus.connect(bus.url)
            worker = FakeWorker(mine)
            worker.words = ["one"]
            worker.speaking.clear()
            running = asyncio.create_task(worker.run())
            await worker.advertised.wait()
            session = (await http.post("/v1/sessions", json={})).json()
            async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
                await say(socket, type="question.create", question="what colour?", id="q1")
                await hear(socket, "answer.started")
                running.cancel()
                await asyncio.wait([running])
                await mine.aclose()
                bus.kill()
                await until(lambda: _status(http, 503))
                bus.start()
                failed = await hear(socket, "answer.failed", 20)
                assert (failed["id"], failed["error"]["code"]) == ("q1", "log_lost")
                assert (await hear(socket, "session.closed"))["reason"] == "log_lost"
                with pytest.raises(ConnectionClosed) as closed:
                    await hear(socket, "nothing")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4410
            await until(lambda: _status(http, 200))


async def _status(http: httpx.AsyncClient, wanted: int) -> bool:
    return (await http.get("/readyz")).status_code == wanted


async def test_a_session_goes_on_at_another_gateway(apart: GatewayProcess, gateway: Served, worker: FakeWorker) -> None:
    """The capture clock, the resume token and the outputs are in the bus, not in the gateway that dies."""
    session = await gateway.open()
    async with connect(f"{apart.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
        token = (await hear(socket, "session.ready"))["resume_token"]
        await socket.send(chunk(JPEG, 0, 100, picture("red")))
        first = await answer(socket)
        await hear(socket, lambda e: e["type"] == "session.health" and e["frames_out"] == 1)
    apart.process.kill()
    await asyncio.to_thread(apart.process.wait)
    query = f"?session={session['id']}&token={token}&last_event_id={first['event_id']}"
    async with connect(gateway.live_url + query) as socket:
        assert (await hear(socket, "session.ready"))["resumed"] is True
        await socket.send(chunk(JPEG, 1, 103, picture("blue")))
        done = await answer(socket)
    assert done["text"] == "blue"
    assert 2_000 <= done["as_of_ms"] <= 10_000


async def test_a_session_of_sound_alone_goes_on_at_another_gateway(
    apart: GatewayProcess, gateway: Served, worker: FakeWorker
) -> None:
    second = bytes(32_000)
    session = await gateway.open()
    async with connect(f"{apart.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
        await socket.send(chunk(PCM16, 0, 100, second))
        await hear(socket, lambda e: e["type"] == "session.health" and e["session_time_ms"] == 0)
    apart.process.kill()
    await asyncio.to_thread(apart.process.wait)
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=AUTH) as socket:
        await socket.send(chunk(PCM16, 1, 101, second))
        heard = await worker.saw(session["id"], lambda state: len(state.sounds) >= 20)
    assert [sound.t_ms for sound in heard.sounds] == list(range(0, 2000, 100))
