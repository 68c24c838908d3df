"""Sources that gateways pull for a session: what was asked for, which gateway pulls it, and how each is doing."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol import keys
from protocol.codec import decode, encode
from protocol.connection import Connection
from protocol.errors import Conflict, NotFound, RateLimited
from protocol.retention import Retention
from protocol.scripts import HOLD_SOURCES, RELEASE_SOURCES

SourceCondition = Literal["connecting", "live", "slow", "frozen", "waiting", "failed", "ended"]


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A camera or file by its address. ``url`` may hold a password: it is neither logged nor given out."""

    name: str
    url: str
    track: int  # of its pictures; its sound is on the next one
    created_at: float

    def __repr__(self) -> str:
        return f"SourceSpec(name={self.name!r}, track={self.track})"


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """How a source is. ``error`` is the newest reason why it was not live, empty if there was none."""

    state: SourceCondition = "connecting"
    since: float = 0.0  # Unix seconds
    error: str = ""
    last_unit_at: float = 0.0  # Unix seconds at which its newest picture came, 0 for none
    lag_ms: int = 0  # by how much its media come later than they were made, beyond the least delay seen
    reconnects: int = 0
    codecs: dict[str, str] = {}  # of its tracks: video, audio


class Sources:
    """The wanted sources of all sessions, on the bus: whichever gateway holds a session's sources pulls them."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def add(self, session_id: str, spec: SourceSpec, limit: int) -> None:
        """Raises Conflict where the name is taken, RateLimited where the session has ``limit`` sources."""
        key = keys.sources(session_id)
        if not await self._connection.command("HSETNX", key, spec.name, encode(spec)):
            raise Conflict("the session has a source of this name", param="name")
        await self._connection.command("PEXPIRE", key, self._keep.session_ms)
        if await self._connection.command("HLEN", key) > limit:
            await self._connection.command("HDEL", key, spec.name)
            raise RateLimited(f"a session has at most {limit} sources")
        await self._connection.command("ZADD", keys.pulled(), spec.created_at, session_id)
        await self._connection.command("PEXPIRE", keys.pulled(), self._keep.index_ms)

    async def remove(self, session_id: str, name: str) -> None:
        """Raises NotFound."""
        if not await self._connection.command("HDEL", keys.sources(session_id), name):
            raise NotFound("the session has no source of this name")

    async def of(self, session_id: str) -> dict[str, SourceSpec]:
        """The sources that the session wants, by name, oldest first. Renews their keys."""
        key = keys.sources(session_id)
        found = await self._connection.command("HGETALL", key)
        await self._connection.command("PEXPIRE", key, self._keep.session_ms)
        specs = sorted((decode(SourceSpec, value) for value in found.values()), key=lambda spec: spec.created_at)
        return {spec.name: spec for spec in specs}

    async def forget(self, session_id: str) -> None:
        """The session is over, or wants no source any more."""
        await self._connection.command("DEL", keys.sources(session_id), keys.source_states(session_id))
        await self._connection.command("ZREM", keys.pulled(), session_id)

    async def sessions(self) -> list[str]:
        """Ids of the sessions that have sources."""
        return [name.decode() for name in await self._connection.command("ZRANGE", keys.pulled(), 0, -1)]

    async def hold(self, session_id: str, gateway_id: str) -> bool:
        """Take or renew the right to pull the session's sources; False while another gateway has it."""
        reply = await self._connection.run(
            HOLD_SOURCES, [keys.source_holder(session_id)], gateway_id, self._keep.sources_ms
        )
        return bool(reply[0] == b"ok")

    async def release(self, session_id: str, gateway_id: str) -> None:
        """Another gateway may have it."""
        await self._connection.run(RELEASE_SOURCES, [keys.source_holder(session_id)], gateway_id)

    async def publish(self, session_id: str, states: dict[str, SourceState]) -> None:
        """How the sources are, as the gateway that pulls them sees it."""
        key = keys.source_states(session_id)
        await self._connection.command("SET", key, encode(states), "PX", self._keep.session_ms)

    async def states(self, session_id: str) -> dict[str, SourceState]:
        """As published last, by name; empty before that."""
        found = await self._connection.command("GET", keys.source_states(session_id))
        return decode(dict[str, SourceState], found) if found else {}
