"""A real bus, a gateway served on a real port in this process, and a worker without a model."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from launcher.valkey import bundled_binary
from protocol.bus import Bus
from server.app import create_app
from server.auth import Keyring, parse_keys
from server.drain import DrainServer
from server.settings import JournalSettings, Limits, Settings, SourceSettings
from tests.conformance.servers import Server
from tests.faults.leaks import lasting_keys
from tests.server.fake_worker import FakeWorker
from tests.server.wire import until

KEY = "ll_test_key_of_alice_0001"
OTHER_KEY = "ll_test_key_of_bob_000002"


@dataclass
class Served:
    """A gateway that answers at ``url``."""

    url: str
    server: DrainServer
    http: httpx.AsyncClient

    @property
    def live_url(self) -> str:
        return self.url.replace("http://", "ws://") + "/v1/live"

    def auth(self, key: str = KEY) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    async def open(self, **terms: object) -> dict[str, Any]:
        reply = await self.http.post("/v1/sessions", json=terms)
        assert reply.status_code == 201, reply.text
        body: dict[str, Any] = reply.json()
        return body


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Server(bundled_binary(), tmp_path_factory.mktemp("bus") / "s.sock") as server:
        yield server.url


@pytest.fixture
async def bus(valkey_url: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(valkey_url)
    await bus._connection.command("FLUSHALL")
    await bus.aclose()
    bus = await Bus.connect(valkey_url)
    yield bus
    assert await lasting_keys(bus._connection) == [], "keys that never expire"
    await bus.aclose()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def source_settings() -> SourceSettings:
    return SourceSettings()


@pytest.fixture
def journal_settings() -> JournalSettings:
    return JournalSettings()


@pytest.fixture
async def gateway(
    bus: Bus, limits: Limits, source_settings: SourceSettings, journal_settings: JournalSettings, tmp_path: Path
) -> AsyncIterator[Served]:
    settings = Settings(
        port=free_port(),
        web_dir=tmp_path,
        limits=limits,
        sources=source_settings,
        journal=journal_settings,
        drain_s=5.0,
    )
    keyring = Keyring(parse_keys(f"alice:{KEY},bob:{OTHER_KEY}"))
    server = DrainServer(create_app(settings, bus, keyring), settings)
    serving = asyncio.create_task(server._serve())
    await until(lambda: _started(server, serving))
    url = f"http://127.0.0.1:{settings.port}"
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20) as http:
        yield Served(url, server, http)
    server.should_exit = True
    await serving


@pytest.fixture
async def worker(bus: Bus) -> AsyncIterator[FakeWorker]:
    worker = FakeWorker(bus)
    running = asyncio.create_task(worker.run())
    await worker.advertised.wait()
    yield worker
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _started(server: DrainServer, serving: asyncio.Task[None]) -> bool:
    assert not serving.done(), "the gateway did not start"
    return server.started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
