"""The sources that this gateway pulls: every second what the bus wants is held against what runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from protocol.bus import Bus
from protocol.errors import BadMedia, LonglookError, NotFound, NoVideo, RateLimited, UnsupportedMedia
from protocol.sessions import SessionRecord
from protocol.sources import SourceSpec, SourceState
from server.background import Background
from server.media.decoders import Nursery
from server.media.ingest import Ingest
from server.media.uploads import FileFeed, Pace, Spool
from server.metrics import Metrics
from server.placement import Board
from server.relay import Relay
from server.sessions import Sessions
from server.settings import Settings
from server.sources.addresses import Dialer, Unreachable
from server.sources.messages import Ended, Piece
from server.sources.source import Download, Interrupted, Session, Source
from server.sources.targets import parse_target

logger = logging.getLogger(__name__)

BEAT_S = 1.0
YIELD_S = 30.0  # a gateway that lost a session's lanes to another one leaves the sources to it for so long
FIRST_TRACK = 1_000  # far from the numbers that clients choose
TRACKS_EACH = 2
OVER = frozenset({"ended", "failed"})


@dataclass
class _Running:
    source: Source
    task: asyncio.Task[None]


@dataclass
class _Pulled:
    """One session's sources here."""

    running: dict[str, _Running] = field(default_factory=dict)


class Pulling:
    """``add``, ``remove`` and ``of`` are about what is wanted; ``run`` makes it so."""

    def __init__(
        self,
        *,
        gateway_id: str,
        bus: Bus,
        board: Board,
        sessions: Sessions,
        relay: Relay,
        nursery: Nursery,
        settings: Settings,
        metrics: Metrics,
        background: Background,
        dialer: Dialer,
    ) -> None:
        self._gateway_id = gateway_id
        self._bus = bus
        self._board = board
        self._sessions = sessions
        self._relay = relay
        self._nursery = nursery
        self._settings = settings
        self._metrics = metrics
        self._background = background
        self._dialer = dialer
        self._pulled: dict[str, _Pulled] = {}
        self._yielded: dict[str, float] = {}
        self._changed = asyncio.Event()

    # --- what is wanted -----------------------------------------------------------------------------------------------

    async def add(self, record: SessionRecord, name: str, url: str) -> SourceSpec:
        """Raises BadRequest, ForbiddenAddress, Conflict (the name is taken), RateLimited."""
        target = parse_target(url)
        with suppress(Unreachable):
            await self._dialer.addresses(target.host, target.port)
        session_id, limits = record.spec.session_id, self._settings.limits
        before = await self._bus.sources.of(session_id)
        if name in before and before[name].url == url:
            return before[name]
        if await self._held_by(record.spec.tenant) >= limits.tenant_sources:
            raise RateLimited(f"at most {limits.tenant_sources} sources at a time", retry_after=5.0)
        taken = {spec.track for spec in before.values()}
        tracks = range(FIRST_TRACK, FIRST_TRACK + TRACKS_EACH * (len(taken) + 1), TRACKS_EACH)
        track = next(number for number in tracks if number not in taken)
        spec = SourceSpec(name=name, url=url, track=track, created_at=round(time.time(), 3))
        await self._bus.sources.add(session_id, spec, limits.sources)
        self._changed.set()
        return spec

    async def remove(self, record: SessionRecord, name: str) -> None:
        """Raises NotFound."""
        await self._bus.sources.remove(record.spec.session_id, name)
        self._changed.set()

    async def of(self, record: SessionRecord) -> list[tuple[SourceSpec, SourceState]]:
        """The session's sources and how they are, whichever gateway pulls them."""
        session_id = record.spec.session_id
        specs = await self._bus.sources.of(session_id)
        states = await self._bus.sources.states(session_id)
        here = self._pulled.get(session_id, _Pulled()).running
        states |= {name: running.source.state for name, running in here.items()}
        return [(spec, states.get(name, SourceState(since=spec.created_at))) for name, spec in specs.items()]

    async def _held_by(self, tenant: str) -> int:
        wanting = set(await self._bus.sources.sessions())
        own = [record.spec.session_id for record in await self._sessions.of_tenant(tenant)]
        return sum([len(await self._bus.sources.of(session_id)) for session_id in own if session_id in wanting])

    # --- what is done -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
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
        for session_id in list(self._pulled):
            self._stop(session_id)
            with suppress(LonglookError):
                await self._bus.sources.release(session_id, self._gateway_id)

    def drop_all(self) -> None:
        """The bus lost its data: no session of before exists."""
        for session_id in list(self._pulled):
            self._stop(session_id)

    async def _look(self) -> None:
        wanting = await self._bus.sources.sessions()
        for session_id in set(self._pulled) - set(wanting):
            self._stop(session_id)
        now = time.monotonic()
        self._yielded = {name: until for name, until in self._yielded.items() if until > now}
        for session_id in wanting:
            if session_id in self._yielded:
                continue
            if await self._bus.sources.hold(session_id, self._gateway_id):
                await self._settle(session_id)
            else:
                self._stop(session_id)

    async def _settle(self, session_id: str) -> None:
        """Start what is wanted and does not run, stop what runs and is not wanted, tell how all of it is."""
        specs = await self._bus.sources.of(session_id)
        record = await self._usable(session_id)
        if record is None or not specs:
            self._stop(session_id)
            await self._bus.sources.forget(session_id)
            await self._bus.sources.release(session_id, self._gateway_id)
            return
        states = await self._bus.sources.states(session_id) if session_id not in self._pulled else {}
        pulled = self._pulled.setdefault(session_id, _Pulled())
        hears = (await self._board.card(record.spec.model)).audio
        for name, running in list(pulled.running.items()):
            if specs.get(name) != running.source.spec:
                running.task.cancel()
                del pulled.running[name]
        for name in specs.keys() - pulled.running.keys():
            pulled.running[name] = self._start(session_id, specs[name], states.get(name), hears=hears)
        told = {name: running.source.state for name, running in pulled.running.items()}
        await self._bus.sources.publish(session_id, told)

    async def _usable(self, session_id: str) -> SessionRecord | None:
        with suppress(NotFound):
            record = await self._bus.sessions.get(session_id)
            return None if record.state in ("closing", "closed") else record
        return None

    def _start(self, session_id: str, spec: SourceSpec, before: SourceState | None, *, hears: bool) -> _Running:
        session = Session(
            id=session_id,
            hears=hears,
            ingest=partial(self._ingest, session_id),
            play=partial(self._play, session_id),
            say=partial(self._relay.say, session_id),
            replaced=partial(self._yield, session_id),
        )
        settings = self._settings
        sandbox = not settings.unsafe_decoder
        source = Source(spec, session, self._dialer, settings.sources, settings.limits, sandbox=sandbox)
        if before is not None:
            source.state = before
        over = before is not None and before.state in OVER  # where another gateway had it
        return _Running(source, self._background.start(_idle() if over else self._carry(session_id, source)))

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
        for running in pulled.running.values() if pulled is not None else ():
            running.task.cancel()

    def _yield(self, session_id: str) -> None:
        """Another gateway feeds the session: the sources are its as well."""
        self._yielded[session_id] = time.monotonic() + YIELD_S
        self._stop(session_id)
        self._background.start(self._release(session_id))

    async def _release(self, session_id: str) -> None:
        with suppress(LonglookError):
            await self._bus.sources.release(session_id, self._gateway_id)

    def _count(self) -> None:
        self._metrics.sources.clear()
        for pulled in self._pulled.values():
            for running in pulled.running.values():
                self._metrics.sources.labels(running.source.state.state).inc()

    # --- what sources ask of their session ----------------------------------------------------------------------------

    async def _ingest(self, session_id: str) -> Ingest:
        ingest = self._sessions.fed(session_id)
        if ingest is not None:
            return ingest
        return await self._sessions.feed(await self._bus.sessions.get(session_id))

    async def _play(self, session_id: str, spec: SourceSpec, download: Download) -> None:
        """Lead a file through the session's way in, as one that was uploaded."""
        ingest = await self._ingest(session_id)
        limits = self._settings.limits
        spool = Spool(self._settings.spool_dir, limits.file_bytes)
        feed = FileFeed(ingest, self._nursery, limits)
        try:
            with ingest.reading_file():
                await spool.fill(_pieces(download))
                await feed.open(spool)
                start_ms = ingest.place(spec.track, None, time.time())
                download.began()
                record = await self._bus.sessions.get(session_id)
                pace: Pace = "fast" if record.spec.ingest == "complete" else "realtime"
                await feed.run(start_ms, spec.track, pace)
                await self._sessions.end_media(record)
        except (BadMedia, NoVideo, UnsupportedMedia) as error:
            raise Interrupted(error.message, lasting=True) from None
        finally:
            await feed.close()
            spool.close()


async def _pieces(download: Download) -> AsyncIterator[bytes]:
    while True:
        match await download.next():
            case Piece(data=data):
                yield data
            case Ended():
                return
            case _:
                raise Interrupted("the file did not arrive whole")


async def _idle() -> None:
    """What is over stays over."""
