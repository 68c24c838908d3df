"""Clients that open and drop connections, send what no client should, or hang: the gateway keeps nothing of them.

The gateway is a process of its own, so that its sockets and memory can be counted.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from launcher.valkey import bundled_binary
from protocol.connection import Connection
from tests.conformance.servers import Server
from tests.faults.leaks import lasting_keys
from tests.server.conftest import KEY
from tests.server.processes import GatewayProcess, gateway_process, worker_process
from tests.server.wire import JPEG, answer, chunk, hear, picture, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AUTH = {"authorization": f"Bearer {KEY}"}
GROWN = 20 << 20  # bytes that a gateway may have more than before
HEAD_S = 2.0
LIMITS = {
    "LONGLOOK_LIMITS__HEAD_S": str(HEAD_S),
    "LONGLOOK_LIMITS__SESSIONS": "1000",
    "LONGLOOK_LIMITS__SOCKETS": "1000",
}


@dataclass
class Stand:
    bus_url: str
    gateway: GatewayProcess
    http: httpx.AsyncClient

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.gateway.process.pid)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.gateway.url.rpartition(":")[2])

    async def open(self) -> str:
        reply = await self.http.post("/v1/sessions", json={})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    @asynccontextmanager
    async def live(self, session_id: str, **options: Any) -> AsyncIterator[ClientConnection]:
        address = f"{self.gateway.live_url}?session={session_id}"
        async with connect(address, additional_headers=AUTH, **options) as socket:
            await hear(socket, "session.ready")
            yield socket

    async def serves(self, session_id: str, number: int) -> None:
        """A session beside all this is as quick and right as ever."""
        async with self.live(session_id) as socket:
            await socket.send(chunk(JPEG, number, float(number), picture("red")))
            assert (await answer(socket))["text"] == "red"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, GatewayProcess]]:
    with (
        Server(bundled_binary(), tmp_path_factory.mktemp("bus") / "s.sock") as bus,
        gateway_process(bus.url, log=None, **LIMITS) as gateway,
        worker_process(bus.url, gateway, sessions=90),
    ):
        yield bus.url, gateway


@pytest.fixture
async def stand(parts: tuple[str, GatewayProcess]) -> AsyncIterator[Stand]:
    async with httpx.AsyncClient(base_url=parts[1].url, headers=AUTH, timeout=30) as http:
        yield Stand(*parts, http)
    assert parts[1].process.poll() is None, "the gateway ended"
    connection = Connection(parts[0])
    assert await lasting_keys(connection) == []
    await connection.aclose()


async def settled(stand: Stand, descriptors: int) -> None:
    async def back() -> bool:
        return stand.process.num_fds() <= descriptors + 2

    await until(back, 20)


async def test_a_thousand_connections_leave_nothing_behind(stand: Stand) -> None:
    """Case 37: most are taken and closed in order, some reset in the middle of a request."""
    session_id = await stand.open()
    await stand.serves(session_id, 0)
    before = stand.process.num_fds()
    for number in range(1_000):
        _, writer = await asyncio.open_connection(*stand.address)
        if number % 10 == 0:
            writer.write(b"GET /v1/sessions HTTP/1.1\r\nhost: x\r\n")
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    for number in range(100):
        async with stand.live(session_id) as live:
            if number % 2:
                live.transport.abort()
    await settled(stand, before)

    async def none_is_counted() -> bool:  # a socket's descriptor goes before its handler ends
        return "longlook_websocket_connections_active 0.0" in (await stand.http.get("/metrics")).text

    await until(none_is_counted, 20)
    await stand.serves(session_id, 1)


async def test_two_hundred_slow_connections_are_dropped_and_cost_nobody(stand: Stand) -> None:
    """Case 32: silent, dripping a head, and half a socket's message; others are served meanwhile."""
    session_id = await stand.open()
    before = stand.process.num_fds()
    ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    with ExitStack() as held:
        for number in range(200):
            reader, writer = await asyncio.open_connection(*stand.address)
            held.callback(writer.transport.abort)
            if number % 2:
                writer.write(b"GET /v1/live HTTP/1.1\r\nhost: x\r\nx-slow: ")
            ends.append((reader, writer))
        await stand.serves(session_id, 0)
        async with asyncio.timeout(HEAD_S + 3.0):
            for reader, _ in ends:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
    await settled(stand, before)


@pytest.mark.parametrize("flood", ["fragments", "bomb", "unfinished"])
async def test_messages_that_no_client_sends(stand: Stand, flood: str) -> None:
    """Case 31: ten thousand fragments, half a gigabyte compressed to half a megabyte, a message without an end."""
    session_id = await stand.open()
    await stand.serves(session_id, 0)
    before = stand.process.memory_info().rss
    with suppress(ConnectionClosed):
        if flood == "fragments":
            async with stand.live(session_id) as live:
                await live.send(bytes([byte]) for byte in chunk(JPEG, 1, 1.0, bytes(9_984)))
                await hear(live, "error")
        elif flood == "bomb":
            await _bomb(stand, session_id)
        else:
            async with stand.live(session_id) as live:
                frame = struct.pack("!BBQ", 0x82, 0x80 | 127, 4 << 20) + bytes(4) + bytes(1 << 20)
                live.transport.write(frame)
                live.transport.abort()
    assert stand.process.memory_info().rss - before < GROWN
    await stand.serves(session_id, 2)


async def _bomb(stand: Stand, session_id: str) -> None:
    """Sends compressed data though compression was not agreed on."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(512)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    factory = ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})
    async with stand.live(session_id, extensions=[factory]) as live:
        assert live.protocol.extensions == [], "the gateway agrees to no compression"
        head = struct.pack("!BBQ", 0xC2, 0x80 | 127, len(packed))
        live.transport.write(head + bytes(4) + packed)
        with pytest.raises(ConnectionClosed):
            await hear(live, "nothing")


async def test_a_client_that_never_reads_is_bounded(stand: Stand) -> None:
    """Case 13: what waits for it is bounded, and it is dropped at its deadline; see also tests/server/test_live.py."""
    session_id = await stand.open()
    await stand.serves(session_id, 0)
    before = stand.process.memory_info().rss
    address = f"{stand.gateway.live_url}?session={session_id}"
    async with connect(address, additional_headers=AUTH, max_queue=1, compression=None) as stuck:
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(4):
                while True:
                    await stuck.send('{"type": "ping", "t": "' + "x" * 60_000 + '"}')
        assert stand.process.memory_info().rss - before < 4 * GROWN
        stuck.transport.abort()
    await stand.serves(session_id, 1)


async def test_a_session_that_sends_too_much_loses_pictures_alone(stand: Stand) -> None:
    """Case 14: one of ten floods; its pictures are lost and counted, its sound and the others' answers are not."""
    flooding, *others = [await stand.open() for _ in range(10)]
    noise = _noise()
    async with stand.live(flooding) as live:
        for number in range(120):
            await live.send(chunk(JPEG, number, number / 4, noise))
            await live.send(chunk(4, number, number / 4, bytes(3200), track=1))
        for number, session_id in enumerate(others):
            await stand.serves(session_id, number)
        await live.send('{"type": "media.end"}')
        await hear(live, lambda e: e["type"] == "media.ack" and e["track"] == 1 and e["sequence"] == 119, 60)
        health = await hear(live, lambda e: e["type"] == "session.health" and e["audio_ms"] >= 11_900, 60)
    assert sum(health["dropped"].values()) > 0
    assert health["frames_in"] == 120
    assert health["audio_ms"] <= 12_000


def _noise() -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (640, 480), os.urandom(640 * 480 * 3)).save(out, "JPEG", quality=60)
    return out.getvalue()


async def test_two_hundred_sessions_leave_no_lasting_key(stand: Stand) -> None:
    """Case 24: opened, then closed, abandoned with a question under way, or closed by their socket."""
    opened = []
    for number in range(200):
        session_id = await stand.open()
        opened.append(session_id.encode())
        if number % 4 == 0:
            async with stand.live(session_id) as live:
                await live.send('{"type": "question.create", "question": "what colour?"}')
                await hear(live, "question.accepted")
        await stand.http.delete(f"/v1/sessions/{session_id}")
    connection = Connection(stand.bus_url)
    assert await lasting_keys(connection) == []

    async def empty() -> bool:
        names = await connection.command("KEYS", "ll:*")
        lanes = [name for name in names if name.endswith((b":video", b":audio", b":control"))]
        return not any(session_id in name for name in lanes for session_id in opened)

    await until(empty, 20)
    await connection.aclose()
