"""The proxy against a small echo server on loopback. Each test waits for traffic, none for time to pass."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.shaping import Faults

pytestmark = pytest.mark.unit

PATTERN = bytes(range(256)) * 64


class Echo:
    """Says back what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(4096):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def echoing(echo: Echo) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


@asynccontextmanager
async def proxied(echo: Echo, seed: int = 1) -> AsyncIterator[FaultProxy]:
    async with echoing(echo) as address, FaultProxy(address, seed=seed) as proxy:
        yield proxy


@asynccontextmanager
async def dial(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def turns() -> None:
    """Lets all that is ready to run do so, as often as a byte could need to pass through."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_bytes_pass_both_ways_and_an_orderly_end_passes_too() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        writer.write(PATTERN)
        writer.write_eof()
        assert await reader.read(-1) == PATTERN
        assert proxy.traffic.given == {"up": len(PATTERN), "down": len(PATTERN)}
        assert proxy.traffic.resets == 0


async def test_a_unix_socket_can_be_the_target(tmp_path: Path) -> None:
    echo = Echo()
    server = await asyncio.start_unix_server(echo.serve, tmp_path / "s.sock")
    async with server, FaultProxy(tmp_path / "s.sock") as proxy, dial(proxy.port) as (reader, writer):
        writer.write(b"over the wall")
        writer.write_eof()
        assert await reader.read(-1) == b"over the wall"


async def test_a_slow_and_sliced_wire_loses_and_reorders_nothing() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        proxy.upstream = Faults(latency_s=0.004, jitter_s=0.004, slice_bytes=512)
        proxy.downstream = Faults(bytes_per_s=4e6, slice_bytes=300)
        writer.write(PATTERN)
        writer.write_eof()
        assert await reader.read(-1) == PATTERN


async def test_a_reset_is_an_error_at_both_ends() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert proxy.traffic.resets == 1


async def test_a_reset_ends_a_paused_connection() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        proxy.pause()
        writer.write(b"x")
        await proxy.until(lambda traffic: traffic.taken["up"] == 1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await turns()
        assert echo.heard == b""
        assert "FaultProxy._give" not in {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]


async def test_a_pause_holds_everything_back_and_resume_lets_it_go() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        proxy.pause()
        writer.write(b"held")
        await proxy.until(lambda traffic: traffic.taken["up"] == 4)
        await turns()
        assert proxy.traffic.given["up"] == 0
        proxy.resume()
        assert await reader.readexactly(4) == b"held"


async def test_a_paused_wire_takes_only_a_bounded_amount() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (_, writer):
        proxy.pause()
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(bytes(64 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        assert 0 < proxy.traffic.taken["up"] < 16 << 20


async def test_a_lost_reply_was_acted_on_and_the_connection_is_gone() -> None:
    echo = Echo()
    async with proxied(echo) as proxy:
        proxy.lose_replies(1)
        async with dial(proxy.port) as (reader, writer):
            writer.write(b"once")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(4)
        assert echo.heard == b"once"
        assert proxy.traffic.replies_lost == 1
        async with dial(proxy.port) as (reader, writer):
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"


async def test_a_muted_connection_stays_open_and_silent() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        proxy.lose_replies(1, mute=True)
        writer.write(b"one")
        await proxy.until(lambda traffic: traffic.taken["down"] == 3)
        writer.write(b"two")
        await proxy.until(lambda traffic: traffic.taken["down"] == 6)
        assert proxy.traffic.given["down"] == 0
        assert proxy.traffic.resets == 0
        assert not reader.at_eof()


async def test_a_cut_ends_the_connection_after_so_many_bytes() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, dial(proxy.port) as (reader, writer):
        proxy.upstream = Faults(cut_after=100)
        writer.write(PATTERN)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(101)
        await proxy.until(lambda traffic: traffic.resets == 1)
        assert proxy.traffic.given["up"] == 100


async def test_refused_connections_never_reach_the_target() -> None:
    echo = Echo()
    async with proxied(echo) as proxy:
        proxy.refusing = True
        with pytest.raises(ConnectionResetError):
            async with dial(proxy.port) as (reader, _):
                await reader.read(1)
        assert (proxy.traffic.refused, echo.connections) == (1, 0)


async def test_a_target_that_is_away_resets_its_clients_until_it_is_back() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody: tuple[str, int] = taken.getsockname()
    echo = Echo()
    async with proxied(echo) as proxy:
        there, proxy.target = proxy.target, nobody
        with pytest.raises(ConnectionResetError):
            async with dial(proxy.port) as (reader, _):
                await reader.read(1)
        assert proxy.traffic.refused == 1
        proxy.target = there
        async with dial(proxy.port) as (reader, writer):
            writer.write(b"back")
            assert await reader.readexactly(4) == b"back"


async def test_an_error_in_the_body_passes_as_it_is() -> None:
    with pytest.raises(KeyError, match="of the body"):
        async with proxied(Echo()):
            raise KeyError("of the body")


async def test_leaving_ends_every_connection_and_task() -> None:
    async with echoing(Echo()) as address:
        before = asyncio.all_tasks()
        proxy = FaultProxy(address)
        proxy.downstream = Faults(latency_s=3_600)
        async with proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            await proxy.until(lambda traffic: traffic.taken["down"] == 1)
        assert await reader.read(1) == b""
        left = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
        assert left <= {"Echo.serve"}
        writer.close()


async def test_the_wait_for_traffic_has_a_limit() -> None:
    async with proxied(Echo()) as proxy:
        with pytest.raises(TimeoutError):
            await proxy.until(lambda traffic: traffic.connections > 0, seconds=0.01)
