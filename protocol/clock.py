"""The server's clock as this process knows it: ages of entries do not depend on what the machines' own clocks say."""

from __future__ import annotations

import time
from collections.abc import Callable

from protocol.connection import Connection


class ServerClock:
    """``sync`` now and then; between two of them it runs with this machine's monotonic clock."""

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._ahead_ms: float | None = None  # of the monotonic clock

    async def sync(self) -> None:
        """Raises BusUnavailable."""
        seconds, micros = await self._connection.command("TIME")
        self._ahead_ms = int(seconds) * 1000 + int(micros) / 1000 - self._monotonic() * 1000

    def age_s(self, appended_ms: int) -> float:
        """Seconds since the server's ``appended_ms``; 0 where that is not known."""
        if self._ahead_ms is None or not appended_ms:
            return 0.0
        return max(0.0, (self._monotonic() * 1000 + self._ahead_ms - appended_ms) / 1000)
