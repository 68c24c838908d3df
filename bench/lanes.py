"""A bus of the benchmark's own, and an onlooker that notes when each picture came into its lane."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from launcher.child import spawn, stop
from launcher.valkey import bundled_binary, private_socket, server_command, socket_url
from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.ids import START, EntryId
from protocol.messages import Lane, Picture

MEGABYTES = 1024
START_S = 10.0
POLL_S = 0.05


@asynccontextmanager
async def private_bus() -> AsyncIterator[str]:
    """The bundled server, alone on a private socket; gives its URL."""
    with private_socket() as path:
        quiet = {**os.environ, "LC_ALL": "C"}
        server = await spawn(server_command(bundled_binary(), path, megabytes=MEGABYTES), environment=quiet)
        try:
            bus = await Bus.connect(socket_url(path), wait_s=START_S)
            await bus.aclose()
            yield socket_url(path)
        finally:
            await stop(server, seconds=START_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that is in its lane: its session time, and when the onlooker read it (Unix seconds)."""

    session_id: str
    track: int
    t_ms: int
    at: float


class Onlooker:
    """Reads the video lanes of chosen sessions as a worker would, but holds no lease and moves no cursor."""

    def __init__(self, bus: Bus) -> None:
        self.seen: list[Seen] = []
        self._tail = bus.follow_lanes(f"onlooker_{secrets.token_hex(4)}")
        self._positions: dict[tuple[str, Lane], EntryId] = {}

    async def watch(self, session_id: str) -> None:
        self._positions[session_id, "video"] = START
        await self._tail.wake()

    async def run(self) -> None:
        """Note pictures until cancelled."""
        try:
            while True:
                try:
                    batch = await self._tail.read(dict(self._positions))
                except BusUnavailable:
                    await asyncio.sleep(POLL_S)  # nothing is lost: it is read later, and counts as late
                    continue
                now = time.time()
                for entry in batch.entries:
                    self._positions[entry.session_id, entry.lane] = entry.id
                    if isinstance(entry.message, Picture):
                        self.seen.append(Seen(entry.session_id, entry.message.track, entry.message.t_ms, now))
        finally:
            await self._tail.aclose()
