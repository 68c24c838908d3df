import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from launcher.valkey import socket_url
from protocol import keys
from protocol.bus import Bus
from protocol.connection import Call, Connection
from protocol.errors import BusFull, BusUnavailable, LogLost
from protocol.ids import EntryId
from protocol.leases import Cursor
from protocol.messages import Ingest
from protocol.retention import Retention
from protocol.scripts import ISSUE
from tests.conformance.samples import SESSION, make_ask, make_picture, make_spec
from tests.conformance.servers import SERVERS, Server, binary_of

pytestmark = pytest.mark.conformance


@pytest.fixture(params=SERVERS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    with Server(binary_of(request.param), tmp_path / "s.sock") as server:
        yield server


async def test_a_server_that_is_still_starting_is_waited_for(own_server: Server) -> None:
    own_server.kill()
    connecting = asyncio.create_task(Bus.connect(own_server.url, wait_s=50))
    with pytest.raises(BusUnavailable):
        await Bus.connect(own_server.url)
    own_server.start()
    async with aclosing(await connecting) as bus:
        await bus.check()


async def test_what_waiting_does_not_mend_is_refused_at_once(own_server: Server) -> None:
    with pytest.raises(BusUnavailable, match="address"):
        await Bus.connect("http://127.0.0.1", wait_s=3600)
    async with aclosing(Connection(own_server.url)) as connection:
        await connection.command("CONFIG", "SET", "requirepass", "hunter2hunter2")
    for url in (own_server.url, own_server.url.replace("unix://", "unix://:wrong-password@")):
        with pytest.raises(BusUnavailable, match="credentials"):
            await Bus.connect(url, wait_s=3600)


async def test_a_server_that_comes_back_empty_is_noticed_once(own_server: Server) -> None:
    async with aclosing(await Bus.connect(own_server.url)) as bus:
        await bus.check()
        own_server.kill()
        with pytest.raises(BusUnavailable):
            await bus.check()
        own_server.start()
        with pytest.raises(LogLost):
            await bus.check()
        await bus.check()


async def test_a_paused_server_is_waited_for_no_longer_than_the_limit(own_server: Server) -> None:
    impatient = Connection(own_server.url, timeout=0.05, retries=1)
    async with aclosing(impatient), aclosing(Connection(own_server.url)) as other:
        await other.command("CLIENT", "PAUSE", 60_000)
        with pytest.raises(BusUnavailable):
            await impatient.command("SET", "a", 1)


async def test_a_full_server_is_a_typed_error_with_a_retry_time(own_server: Server) -> None:
    async with aclosing(await Bus.connect(own_server.url)) as bus, aclosing(Connection(own_server.url)) as other:
        await bus.sessions.open(make_spec(), "w_a")
        await other.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(BusFull) as refused:
            await bus.lanes.ask(SESSION, make_ask())
        assert refused.value.retry_after


async def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(BusUnavailable):
        await Bus.connect(socket_url(tmp_path / "nobody.sock"))


async def test_scripts_survive_a_server_that_forgot_them(bus: Bus, connection: Connection) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    await connection.command("SCRIPT", "FLUSH")
    await bus.lanes.ask(SESSION, make_ask())
    await connection.command("SCRIPT", "FLUSH")
    token = Call(ISSUE, [keys.token(SESSION, "t")], ["connect", 1000, 1000])
    assert await connection.run_all([token, token]) == [[b"ok"], [b"ok"]]


async def test_many_tasks_share_a_small_pool(server_url: str) -> None:
    async with aclosing(Connection(server_url, pool=2)) as connection:
        replies = await asyncio.gather(*(connection.command("ECHO", n) for n in range(100)))
    assert [int(reply) for reply in replies] == list(range(100))


async def test_a_cancelled_command_is_cancelled(connection: Connection) -> None:
    async def talk() -> None:
        while True:
            await connection.command("ECHO", 1)

    for steps in range(150):
        task = asyncio.create_task(talk())
        for _ in range(steps % 15):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
        assert done
        assert task.cancelled()


async def filled(bus: Bus, connection: Connection, *, complete: bool = False) -> int:
    """A session whose video lane takes all the memory there is; returns how many pictures it holds."""
    ingest: Ingest = "complete" if complete else "live"
    await bus.sessions.open(msgspec.structs.replace(make_spec(), ingest=ingest), "w_a")
    generation = await bus.lanes.claim_publisher(SESSION)
    used = int((await connection.command("INFO", "memory"))["used_memory"])
    await connection.command("CONFIG", "SET", "maxmemory", used + (4 << 20))
    for sequence in range(1, 1_000):
        picture = make_picture(sequence, size=100_000)
        try:
            await bus.lanes.append(SESSION, generation, sequence, picture, lossless=complete)
        except BusFull:
            return sequence - 1
    raise AssertionError("the server has no limit")


async def test_pictures_make_room_for_questions_on_a_full_server(own_server: Server) -> None:
    async with aclosing(await Bus.connect(own_server.url)) as bus, aclosing(Connection(own_server.url)) as connection:
        held = await filled(bus, connection)
        assert await bus.relieve([]) is True
        for n in range(20):
            await bus.lanes.ask(SESSION, make_ask(f"q{n}"))
        left = await connection.command("XRANGE", keys.lane(SESSION, "video"), "-", "+")
        assert 0 < len(left) < held
        assert EntryId.parse(left[-1][0]).minor == held, "the newest stay"
        await connection.command("CONFIG", "SET", "maxmemory", 1 << 30)
        assert await bus.relieve([SESSION]) is False


async def test_what_was_not_read_stays_where_nothing_may_be_lost(own_server: Server) -> None:
    async with aclosing(await Bus.connect(own_server.url)) as bus, aclosing(Connection(own_server.url)) as connection:
        assert await filled(bus, connection, complete=True) > 10
        assert await bus.lanes.shed(SESSION) == 0
        await connection.command("CONFIG", "SET", "maxmemory", 1 << 30)
        owned = await bus.leases.acquire(SESSION, "w_a")
        await bus.leases.commit([(owned, {"video": Cursor(EntryId(1, 5), 5)})])
        assert await bus.lanes.shed(SESSION) == 5


async def test_a_lane_keeps_its_size_whoever_trims_it(server_url: str, connection: Connection) -> None:
    small = await Bus.connect(server_url, Retention(video_bytes=10_000))
    await small.sessions.open(make_spec(), "w_a")
    generation = await small.lanes.claim_publisher(SESSION)
    for n in range(1, 31):
        await small.lanes.append(SESSION, generation, n, make_picture(n, size=1_000), lossless=False)
        if n == 15:
            await small.lanes.shed(SESSION)
    assert await connection.command("XLEN", keys.lane(SESSION, "video")) == 9
    await small.aclose()
