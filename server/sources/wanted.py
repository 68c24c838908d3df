"""What clients want pulled for their sessions, and how it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from protocol.errors import RateLimited
from protocol.sessions import SessionRecord
from protocol.sources import SourceSpec, SourceState
from server.parts import Parts
from server.sessions import Sessions
from server.sources.addresses import Dialer, Unreachable
from server.sources.pulling import Pulling
from server.sources.targets import parse_target

FIRST_TRACK = 1_000  # far from the numbers that clients choose
TRACKS_EACH = 2


class Wanted:
    """Sources of sessions, as clients see them; whichever gateway pulls them."""

    def __init__(self, parts: Parts, sessions: Sessions, pulling: Pulling, dialer: Dialer) -> None:
        self._bus = parts.bus
        self._limits = parts.settings.limits
        self._sessions = sessions
        self._pulling = pulling
        self._dialer = dialer
        self._adding = asyncio.Lock()

    async def add(self, record: SessionRecord, name: str, url: str) -> SourceSpec:
        """Raises BadRequest, ForbiddenAddress, Conflict (the name is taken), RateLimited."""
        target = parse_target(url)
        with suppress(Unreachable):
            await self._dialer.addresses(target.host, target.port)
        async with self._adding:  # two at once would take the same track
            return await self._add(record, name, url)

    async def remove(self, record: SessionRecord, name: str) -> None:
        """Raises NotFound."""
        await self._bus.sources.remove(record.spec.session_id, name)
        self._pulling.look()

    async def of(self, record: SessionRecord) -> list[tuple[SourceSpec, SourceState]]:
        """The session's sources and how they are, oldest first."""
        session_id = record.spec.session_id
        specs = await self._bus.sources.of(session_id)
        states = await self._bus.sources.states(session_id) | self._pulling.states(session_id)
        return [(spec, states.get(name, SourceState(since=spec.created_at))) for name, spec in specs.items()]

    async def _add(self, record: SessionRecord, name: str, url: str) -> SourceSpec:
        session_id = record.spec.session_id
        before = await self._bus.sources.of(session_id)
        if name in before and before[name].url == url:
            return before[name]
        if await self._held_by(record.spec.tenant) >= self._limits.tenant_sources:
            raise RateLimited(f"at most {self._limits.tenant_sources} sources at a time", retry_after=5.0)
        taken = {spec.track for spec in before.values()}
        tracks = range(FIRST_TRACK, FIRST_TRACK + TRACKS_EACH * (len(taken) + 1), TRACKS_EACH)
        track = next(number for number in tracks if number not in taken)
        spec = SourceSpec(name=name, url=url, track=track, created_at=round(time.time(), 3))
        await self._bus.sources.add(session_id, spec, self._limits.sources)
        self._pulling.look()
        return spec

    async def _held_by(self, tenant: str) -> int:
        wanting = set(await self._bus.sources.sessions())
        own = [record.spec.session_id for record in await self._sessions.of_tenant(tenant)]
        return sum([len(await self._bus.sources.of(session_id)) for session_id in own if session_id in wanting])
