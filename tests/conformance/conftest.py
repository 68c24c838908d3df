"""Every test of this folder runs once against each server that the bus must be alike on, and leaves no lasting key."""

from collections.abc import AsyncIterator, Iterator

import pytest

from protocol.bus import Bus
from protocol.connection import Connection
from protocol.leases import LaneTail, Lease
from protocol.messages import Owned
from protocol.retention import Retention
from tests.conformance.samples import SESSION, make_spec
from tests.conformance.servers import SERVERS, Server, binary_of
from tests.faults.leaks import lasting_keys


@pytest.fixture(scope="session", params=SERVERS)
def server_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Server(binary_of(request.param), tmp_path_factory.mktemp("bus") / "s.sock") as server:
        yield server.url


@pytest.fixture
def retention() -> Retention:
    return Retention()


@pytest.fixture
async def connection(server_url: str) -> AsyncIterator[Connection]:
    connection = Connection(server_url)
    await connection.command("FLUSHALL")
    yield connection
    await connection.aclose()


@pytest.fixture
async def bus(server_url: str, connection: Connection, retention: Retention) -> AsyncIterator[Bus]:
    """A bus over an empty server; afterwards every key that is left must expire by itself."""
    bus = await Bus.connect(server_url, retention)
    yield bus
    await bus.aclose()
    assert await lasting_keys(connection) == [], "keys that never expire"


@pytest.fixture
async def owned(bus: Bus) -> Lease:
    """A session that worker w_a owns under epoch 1."""
    await bus.sessions.open(make_spec(), "w_a")
    lease = await bus.leases.acquire(SESSION, "w_a")
    await bus.outputs.append(SESSION, lease.epoch, [(0, Owned(worker_id="w_a"))])
    return lease


@pytest.fixture
async def lanes_tail(bus: Bus) -> AsyncIterator[LaneTail]:
    """Worker w_a's reader of lanes, already woken once: its first read does not wait."""
    tail = bus.follow_lanes("w_a")
    await tail.wake()
    yield tail
    await tail.aclose()
