"""Sources outlive the gateway that pulls them, and go where the session's media go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from websockets.asyncio.client import connect

from protocol.bus import Bus
from tests.server.conftest import KEY
from tests.server.fake_worker import FakeWorker
from tests.server.processes import GatewayProcess, gateway_process
from tests.server.sources.web_servers import WebServer, shows, web_server
from tests.server.wire import JPEG, chunk, hear, picture, until

pytestmark = pytest.mark.e2e

ALLOW = json.dumps(["127.0.0.0/8"])
AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def two_gateways(bus: Bus, valkey_url: str) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    with gateway_process(valkey_url, LONGLOOK_SOURCES__ALLOW=ALLOW) as first:
        with gateway_process(valkey_url, LONGLOOK_SOURCES__ALLOW=ALLOW) as second:
            yield first, second


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server(shows(picture("green"))) as server:
        yield server


async def pulls(gateway: GatewayProcess) -> bool:
    async with httpx.AsyncClient() as http:
        return 'longlook_sources{state="live"} 1.0' in (await http.get(f"{gateway.url}/metrics")).text


async def opened(gateway: GatewayProcess, web: WebServer) -> str:
    async with httpx.AsyncClient(base_url=gateway.url, headers=AUTH) as http:
        session: str = (await http.post("/v1/sessions", json={})).json()["id"]
        reply = await http.post(f"/v1/sessions/{session}/sources", json={"name": "door", "url": web.url()})
        assert reply.status_code == 201
        return session


async def holder(one: GatewayProcess, other: GatewayProcess) -> tuple[GatewayProcess, GatewayProcess]:
    """The gateway that pulls, and the one that does not."""

    async def somebody() -> bool:
        return await pulls(one) or await pulls(other)

    await until(somebody)
    return (one, other) if await pulls(one) else (other, one)


async def test_when_a_gateway_is_killed_another_one_pulls(
    two_gateways: tuple[GatewayProcess, GatewayProcess], worker: FakeWorker, web: WebServer
) -> None:
    session_id = await opened(two_gateways[0], web)
    here, there = await holder(*two_gateways)
    here.process.kill()
    await until(lambda: pulls(there), 25.0)
    async with httpx.AsyncClient(base_url=there.url, headers=AUTH) as http:
        (found,) = (await http.get(f"/v1/sessions/{session_id}/sources")).json()["data"]
    assert (found["name"], found["state"]) == ("door", "live")


async def test_sources_go_where_a_client_feeds_the_session(
    two_gateways: tuple[GatewayProcess, GatewayProcess], worker: FakeWorker, web: WebServer
) -> None:
    session_id = await opened(two_gateways[0], web)
    here, there = await holder(*two_gateways)
    async with connect(f"{there.live_url}?session={session_id}", additional_headers=AUTH) as socket:
        await hear(socket, "session.ready")
        await socket.send(chunk(JPEG, 0, 0.0, picture("red")))
        await until(lambda: pulls(there), 20.0)
        assert not await pulls(here)
        await socket.send(chunk(JPEG, 1, 5.0, picture("red")))
        acknowledged = await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == 1)
        assert acknowledged["track"] == 0
