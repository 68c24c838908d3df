"""The bus: everything that gateways and workers say to each other goes through one Redis (>= 7) or Valkey (>= 8).

``Bus`` holds one small object for each concern, over one shared connection pool:

* ``placement``: the board of workers, room reserved on them, calls, orphans
* ``sessions``: records, health, closing, idempotency keys
* ``lanes``: questions, cancels, media in
* ``leases``: ownership, epochs, cursors
* ``outputs``: answers out, answers by question id
* ``sources``: cameras and files that gateways pull
* ``tokens``: connect and resume tokens

Opening a session takes three steps, each safe to repeat: ``placement.reserve``, ``sessions.open``, ``placement.call``.
Closing: ``lanes.close``, and ``sessions.finish`` where that says that nobody owns the session.

Every key expires. Whoever uses a session renews its keys; the owner does so with its lease.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable

from protocol import keys
from protocol.clock import ServerClock
from protocol.connection import Connection
from protocol.errors import BusUnavailable, LogLost
from protocol.lanes import Lanes
from protocol.leases import LaneTail, Leases
from protocol.outputs import Outputs, OutputTail
from protocol.placement import Placement
from protocol.retention import Retention
from protocol.sessions import Sessions
from protocol.sources import Sources
from protocol.tail import Tail
from protocol.tokens import Tokens

CONNECT_PAUSE_S = 0.1
CROWDED = 0.85  # share of the server's memory from which on pictures make room; above it questions still fit


class Bus:
    """The verbs of the bus. One per process; made by ``connect``, ended by ``aclose``."""

    def __init__(self, connection: Connection, retention: Retention, log_id: bytes) -> None:
        self._connection = connection
        self._log_id = log_id
        self.retention = retention
        self.placement = Placement(connection, retention)
        self.sessions = Sessions(connection, retention)
        self.lanes = Lanes(connection, retention)
        self.leases = Leases(connection, retention)
        self.outputs = Outputs(connection, retention)
        self.sources = Sources(connection, retention)
        self.tokens = Tokens(connection)
        self._clock = ServerClock(connection)

    @classmethod
    async def connect(cls, url: str, retention: Retention | None = None, *, wait_s: float = 0.0) -> Bus:
        """``url``: redis://, rediss:// or unix://. A bus that is still starting is tried again for ``wait_s`` seconds.

        Raises BusUnavailable, at once where waiting does not help: the address or the credentials are wrong.
        """
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return await cls._connected(url, retention or Retention())
            except BusUnavailable as error:
                if error.retry_after is None or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(CONNECT_PAUSE_S)

    @classmethod
    async def _connected(cls, url: str, retention: Retention) -> Bus:
        connection = Connection(url)
        try:
            return cls(connection, retention, await _log_id(connection, retention))
        except BaseException:
            await connection.aclose()
            raise

    async def check(self) -> None:
        """Call about once a second: tells whether the data are still those of before.

        Raises BusUnavailable, or LogLost once after the server came back without its data; from then on the bus serves
        the new data set, in which no session of before exists.
        """
        await self._clock.sync()
        found = await _log_id(self._connection, self.retention)
        if found != self._log_id:
            self._log_id = found
            raise LogLost("the bus came back without its data", retry_after=1.0)

    async def relieve(self, session_ids: Iterable[str]) -> bool:
        """Call about once a second with the sessions that this process feeds or owns: on a bus that is nearly full
        their video lanes make room. Returns whether it is nearly full.
        """
        memory = await self._connection.command("INFO", "memory")
        limit = int(memory["maxmemory"])
        crowded = bool(limit) and int(memory["used_memory"]) > CROWDED * limit
        if crowded:
            for session_id in session_ids:
                await self.lanes.shed(session_id)
        return crowded

    def follow_outputs(self, reader_id: str) -> OutputTail:
        """A follower of output streams on a connection of its own. ``reader_id`` must be unique to the process."""
        return OutputTail(Tail(self._connection.url, self._connection, reader_id))

    def follow_lanes(self, worker_id: str) -> LaneTail:
        """The owner's follower of lanes on a connection of its own."""
        return LaneTail(Tail(self._connection.url, self._connection, worker_id), worker_id, self._clock)

    async def aclose(self) -> None:
        await self._connection.aclose()


async def _log_id(connection: Connection, retention: Retention) -> bytes:
    """Identity of the data set, made by whoever comes first. Kept alive by every process that looks."""
    await connection.command("SET", keys.LOG, secrets.token_hex(8), "NX", "PX", retention.index_ms)
    await connection.command("PEXPIRE", keys.LOG, retention.index_ms)
    return bytes(await connection.command("GET", keys.LOG) or b"")
