"""The sources that this gateway pulls: every second what the bus wants is held against what runs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from protocol.errors import Conflict, LonglookError, NotFound
from protocol.sessions import SessionRecord
from protocol.sources import SourceSpec, SourceState
from server.media.ingest import Ingest
from server.parts import Parts
from server.sessions import Sessions
from server.sources.addresses import Dialer
from server.sources.downloads import Download, play
from server.sources.source import Session, Source

logger = logging.getLogger(__name__)

BEAT_S = 1.0
DOUBT_S = 3.0  # a session that the bus does not know: by then it is known whether the bus lost its data
YIELD_S = 30.0  # a gateway that lost a session's lanes to another one leaves the sources to it for so long
OVER = frozenset({"closing", "closed"})
DONE = frozenset({"ended", "failed"})


@dataclass
class _Running:
    source: Source
    task: asyncio.Task[None]


@dataclass
class _Pulled:
    """One session's sources here."""

    running: dict[str, _Running] = field(default_factory=dict)


class Pulling:
    """Makes what is wanted so, while ``run`` does."""

    def __init__(self, parts: Parts, sessions: Sessions, dialer: Dialer) -> None:
        self._parts = parts
        self._bus = parts.bus
        self._settings = parts.settings
        self._sessions = sessions
        self._dialer = dialer
        self._pulled: dict[str, _Pulled] = {}
        self._yielded: dict[str, float] = {}
        self._doubted: dict[str, float] = {}
        self._restored = -math.inf
        self._changed = asyncio.Event()
        self._closed = False

    def look(self) -> None:
        """What is wanted has changed."""
        self._changed.set()

    def states(self, session_id: str) -> dict[str, SourceState]:
        """How the sources that are pulled here are, by name."""
        pulled = self._pulled.get(session_id)
        return {} if pulled is None else {name: running.source.state for name, running in pulled.running.items()}

    async def run(self) -> None:
        """Until closed."""
        while not self._closed:
            try:
                await self._look()
            except LonglookError as error:
                logger.warning("sources cannot be looked after: %s", error.message)
            self._count()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()

    async def aclose(self) -> None:
        """Stop pulling, and let other gateways do it."""
        self._closed = True
        for session_id in list(self._pulled):
            self._stop(session_id)
            await self._release(session_id)

    async def restore(self) -> None:
        """The bus lost its data: what is pulled here is wanted still, as far as the sessions are opened again."""
        self._restored = time.monotonic()
        for session_id, pulled in list(self._pulled.items()):
            for running in pulled.running.values():
                with suppress(Conflict):
                    await self._bus.sources.add(session_id, running.source.spec, self._settings.limits.sources)

    async def _look(self) -> None:
        now = time.monotonic()
        wanting = await self._bus.sources.sessions()
        for session_id in set(self._pulled) - set(wanting):
            await self._doubt(session_id, now)
        self._yielded = {name: until for name, until in self._yielded.items() if until > now}
        for session_id in wanting:
            if session_id in self._yielded:
                continue
            try:
                if await self._bus.sources.hold(session_id, self._parts.gateway_id):
                    await self._settle(session_id)
                else:
                    self._stop(session_id)
            except LonglookError as error:
                fields = {"session_id": session_id, "code": error.code}
                logger.warning("a session's sources cannot be looked after", extra=fields)

    async def _settle(self, session_id: str) -> None:
        """Start what is wanted and does not run, stop what runs and is not wanted, tell how all of it is."""
        specs = await self._bus.sources.of(session_id)
        record = await self._record(session_id)
        if record is None and session_id in self._pulled:
            await self._doubt(session_id, time.monotonic())
            return
        if record is None or record.state in OVER or not specs:
            self._stop(session_id)
            await self._bus.sources.forget(session_id)
            await self._release(session_id)
            return
        self._doubted.pop(session_id, None)
        states = await self._bus.sources.states(session_id) if session_id not in self._pulled else {}
        pulled = self._pulled.setdefault(session_id, _Pulled())
        hears, fps = (await self._parts.board.card(record.spec.model)).audio, record.spec.fps
        for name, running in list(pulled.running.items()):
            if specs.get(name) != running.source.spec:
                running.task.cancel()
                del pulled.running[name]
        for name in specs.keys() - pulled.running.keys():
            pulled.running[name] = self._start(session_id, specs[name], states.get(name), hears=hears, fps=fps)
        await self._bus.sources.publish(session_id, self.states(session_id))

    async def _doubt(self, session_id: str, now: float) -> None:
        """A session that is pulled here is not on the bus any more: it was deleted, or the bus lost its data and the
        session may be opened again, which is waited for.
        """
        record = await self._record(session_id)
        since = self._doubted.setdefault(session_id, now)
        lately = now - self._restored < self._settings.limits.unowned_s
        if (record is not None and record.state in OVER) or (now - since > DOUBT_S and not lately):
            self._stop(session_id)
            await self._bus.sources.forget(session_id)

    async def _record(self, session_id: str) -> SessionRecord | None:
        with suppress(NotFound):
            return await self._bus.sessions.get(session_id)
        return None

    def _start(
        self, session_id: str, spec: SourceSpec, before: SourceState | None, *, hears: bool, fps: float
    ) -> _Running:
        session = Session(
            id=session_id,
            hears=hears,
            fps=fps,
            ingest=partial(self._ingest, session_id),
            play=partial(self._play, session_id),
            say=partial(self._parts.relay.say, session_id),
            replaced=partial(self._yield, session_id),
        )
        settings = self._settings
        sandbox = not settings.unsafe_decoder
        source = Source(spec, session, self._dialer, settings.sources, settings.limits, sandbox=sandbox)
        if before is not None:
            source.state = before
        done = before is not None and before.state in DONE  # where another gateway had it
        return _Running(source, self._parts.background.start(_idle() if done else self._carry(session_id, source)))

    async def _carry(self, session_id: str, source: Source) -> None:
        try:
            await source.run()
        except Exception:
            # One source's fault must not end the task group that all of them share.
            logger.exception("a source failed", extra={"session_id": session_id, "source": source.spec.name})
            source.state = msgspec.structs.replace(source.state, state="failed", error="a fault of the gateway")
        finally:
            ingest = self._sessions.fed(session_id)
            if ingest is not None:
                ingest.release(source)

    def _stop(self, session_id: str) -> None:
        pulled = self._pulled.pop(session_id, None)
        self._doubted.pop(session_id, None)
        for running in pulled.running.values() if pulled is not None else ():
            running.task.cancel()

    def _yield(self, session_id: str) -> None:
        """Another gateway feeds the session: the sources are its as well."""
        self._yielded[session_id] = time.monotonic() + YIELD_S
        self._stop(session_id)
        self._parts.background.start(self._release(session_id))

    async def _release(self, session_id: str) -> None:
        with suppress(LonglookError):
            await self._bus.sources.release(session_id, self._parts.gateway_id)

    def _count(self) -> None:
        self._parts.metrics.sources.clear()
        for pulled in self._pulled.values():
            for running in pulled.running.values():
                self._parts.metrics.sources.labels(running.source.state.state).inc()

    # --- what sources ask of their session ----------------------------------------------------------------------------

    async def _ingest(self, session_id: str) -> Ingest:
        ingest = self._sessions.fed(session_id)
        if ingest is not None:
            return ingest
        return await self._sessions.feed(await self._bus.sessions.get(session_id))

    async def _play(self, session_id: str, spec: SourceSpec, download: Download) -> None:
        ingest = await self._ingest(session_id)
        record = await self._bus.sessions.get(session_id)
        with ingest.reading_file():
            await play(download, spec.track, record.spec.ingest, ingest, self._parts.nursery, self._settings)
        await self._sessions.end_media(record)


async def _idle() -> None:
    """What is done stays done."""
