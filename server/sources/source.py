"""One source of a session: connected, watched, connected again, until it is not wanted any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import certifi
import msgspec

from protocol.errors import BadMedia, BadRequest, ForbiddenAddress, LonglookError, TooLarge
from protocol.messages import Notice
from protocol.sources import SourceCondition, SourceSpec, SourceState
from server.media.ingest import Ingest
from server.media.tracks import Chunk, Codec
from server.settings import Limits, SourceSettings
from server.sources.addresses import Dialer
from server.sources.backoff import Backoff
from server.sources.downloads import Download
from server.sources.messages import (
    Again,
    Challenged,
    FileBegins,
    Moved,
    Opened,
    Pull,
    Refused,
    Report,
    TrackInfo,
    Unit,
)
from server.sources.outcome import Interrupted
from server.sources.process import Puller, PullerLost, running_puller
from server.sources.targets import Target, parse_target
from server.sources.timeline import Timeline

logger = logging.getLogger(__name__)

HOPS = 6  # connections until one that brings media: redirects, and a proof that was asked for
STEADY_S = 30.0  # a source that was live for so long begins again with the shortest wait
SOUND = frozenset({"pcm16", "opus", "aac"})
CODECS = {codec.name.lower(): codec for codec in Codec}


@dataclass(frozen=True)
class Session:
    """What a source needs of its session.

    ``fps``: pictures a second that it samples. ``ingest`` gives the way in, ``play`` leads a file that arrives in
    pieces through it, ``say`` tells the session's clients, ``replaced`` is called when another gateway feeds
    the session.
    """

    id: str
    hears: bool
    fps: float
    ingest: Callable[[], Awaitable[Ingest]]
    play: Callable[[SourceSpec, Download], Awaitable[None]]
    say: Callable[[Notice], None]
    replaced: Callable[[], None]


class Source:
    """``run`` pulls until cancelled, or until there is nothing more to pull. It hears of its own tracks."""

    def __init__(
        self,
        spec: SourceSpec,
        session: Session,
        dialer: Dialer,
        settings: SourceSettings,
        limits: Limits,
        *,
        sandbox: bool,
    ) -> None:
        self.spec = spec
        self.state = SourceState(since=time.time())
        self._session = session
        self._dialer = dialer
        self._settings = settings
        self._limits = limits
        self._sandbox = sandbox
        self._backoff = Backoff(settings.retry_s, settings.retry_most_s)
        self._sequences = {"video": 0, "audio": 0}
        self._tracks: dict[str, TrackInfo] = {}
        self._timeline: Timeline | None = None
        self._last_ms = -1
        self._live_since: float | None = None
        self._unit_at = 0.0
        self._polled = False  # its pictures are asked for one by one, and this is not the first

    # --- what an ingest tells -----------------------------------------------------------------------------------------

    def tell(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "error":
            self.state = msgspec.structs.replace(self.state, error=event["error"]["message"])
        else:
            data = {**event["data"], "source": self.spec.name}
            self._session.say(Notice(code=event["code"], message=event["message"], data=data))

    def replaced(self) -> None:
        self._session.replaced()

    # --- the whole of it ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._become("connecting")
        while True:
            try:
                await self._connect()
            except Interrupted as interrupted:
                if interrupted.lasting:
                    self._become("failed", interrupted.reason)
                    return
                self._become("waiting", interrupted.reason)
            else:
                self._become("ended")
                return
            self._rest()
            await asyncio.sleep(self._backoff.next())
            self.state = msgspec.structs.replace(self.state, reconnects=self.state.reconnects + 1)

    async def _connect(self) -> None:
        """One connection, wherever redirects lead. Returns at the end of a file. Raises Interrupted."""
        try:
            target, challenges, hops = parse_target(self.spec.url), list[str](), 0
            while hops < HOPS:
                connection = await self._dialer.dial(target.host, target.port)
                async with running_puller(connection, self._order(target, challenges)) as puller:
                    last = await self._hear(puller)
                hops += 1
                match last:
                    case None:
                        return
                    case Moved(location=location):
                        target, challenges, self._polled = target.moved(location), [], False
                    case Challenged(headers=headers):
                        challenges = headers
                    case Again(after_s=after_s):
                        hops, self._polled = 0, True
                        await asyncio.sleep(after_s)
        except (BadRequest, ForbiddenAddress, TooLarge) as error:
            raise Interrupted(error.message, lasting=True) from None
        except LonglookError as error:
            raise Interrupted(error.message) from None
        except PullerLost:
            raise Interrupted("the process that pulls it was lost") from None
        raise Interrupted("redirects lead nowhere", lasting=True)

    def _order(self, target: Target, challenges: list[str]) -> Pull:
        settings = self._settings
        known = CODECS if self._session.hears else CODECS.keys() - SOUND
        return Pull(
            scheme=target.scheme,
            host=target.host,
            port=target.port,
            path=target.path,
            user=target.user,
            password=target.password,
            challenges=challenges,
            proved=self._polled,
            fps=self._session.fps,
            ca_file=str(settings.ca_file or certifi.where()) if target.secure else "",
            codecs=sorted(known),
            unit_bytes=self._limits.message_bytes,
            memory_bytes=settings.memory_bytes,
            sandbox=self._sandbox,
        )

    async def _hear(self, puller: Puller) -> Moved | Challenged | Again | None:
        """Lead what the puller brings to the session. Raises Interrupted, PullerLost, LonglookError."""
        self._unit_at = time.monotonic()
        while True:
            match await self._next(puller):
                case Moved() | Challenged() | Again() as elsewhere:
                    return elsewhere
                case Refused(reason=reason, lasting=lasting):
                    raise Interrupted(reason, lasting=lasting)
                case Opened() if self._polled:
                    continue  # the next picture of the same camera
                case Opened(tracks=tracks):
                    await self._open(tracks)
                case Unit() as unit:
                    await self._take(unit)
                case FileBegins(size=size):
                    await self._play(size, puller)
                    return None
                case _:
                    raise PullerLost

    # --- units --------------------------------------------------------------------------------------------------------

    async def _next(self, puller: Puller) -> Report:
        """The next report; meanwhile a source that says nothing is noticed, and in the end given up."""
        while True:
            silent_s = time.monotonic() - self._unit_at
            if silent_s >= self._settings.dead_s:
                raise Interrupted("no picture came for too long")
            if silent_s >= self._settings.frozen_s and self.state.state in ("live", "slow"):
                self._become("frozen", "no picture comes")
            limit = self._settings.frozen_s if self.state.state in ("live", "slow") else self._settings.dead_s
            try:
                async with asyncio.timeout(limit - silent_s):
                    return await puller.next()
            except TimeoutError:
                continue

    async def _open(self, tracks: list[TrackInfo]) -> None:
        ingest = await self._session.ingest()
        self._tracks = {track.sort: track for track in tracks}
        self.state = msgspec.structs.replace(self.state, codecs={track.sort: track.codec for track in tracks})
        now = time.time()
        start_ms = ingest.clock.expected(now)
        self._timeline = Timeline(start_ms)
        self._sequences = {sort: sequence + 1 for sort, sequence in self._sequences.items()}  # something is missing
        sound = self._tracks.get("audio")
        if sound is not None and sound.codec == "pcm16":
            ingest.open_track(self.spec.track + 1, sound.rate, sound.channels)
        if self._last_ms >= 0:
            self._discontinuity(round(start_ms) - self._last_ms, 0)

    async def _take(self, unit: Unit) -> None:
        track = self._tracks.get(unit.sort)
        if track is None or self._timeline is None:
            raise PullerLost
        placed = self._timeline.place(unit.sort, unit.media_us, time.monotonic())
        if placed.jump_ms:
            self._discontinuity(0, placed.jump_ms)
        number = self.spec.track + (unit.sort == "audio")
        self._sequences[unit.sort] += 2 if unit.lost else 1
        chunk = Chunk(CODECS[track.codec], number, self._sequences[unit.sort], placed.t_ms * 1000, unit.data)
        try:
            await (await self._session.ingest()).pull(self, chunk, placed.t_ms)
        except (BadMedia, TooLarge) as error:
            self.state = msgspec.structs.replace(self.state, error=error.message)
        self._last_ms = max(self._last_ms, placed.t_ms)
        if unit.sort == "video" or "video" not in self._tracks:
            self._came(self._timeline.lag_s)

    def _came(self, lag_s: float) -> None:
        """A picture came; with what delay tells how the source is."""
        self._unit_at = time.monotonic()
        self.state = msgspec.structs.replace(self.state, last_unit_at=time.time(), lag_ms=round(lag_s * 1000))
        slow_s = self._settings.slow_s
        if lag_s > self._settings.late_s:
            raise Interrupted("its media come far too late")
        if lag_s > slow_s and self.state.state != "slow":
            self._become("slow", "its media come late")
        elif self.state.state != "live" and lag_s <= (slow_s / 2 if self.state.state == "slow" else slow_s):
            self._become("live")

    # --- files --------------------------------------------------------------------------------------------------------

    async def _play(self, size: int, puller: Puller) -> None:
        """Raises Interrupted: what the server sent cannot be played, or did not arrive whole."""
        if size > self._limits.file_bytes:
            raise TooLarge(f"a file has at most {self._limits.file_bytes} bytes")

        async def piece() -> Report:
            report = await self._next(puller)
            self._unit_at = time.monotonic()
            if isinstance(report, Refused):
                raise Interrupted(report.reason)
            return report

        await self._session.play(self.spec, Download(piece, lambda: self._become("live")))

    # --- small steps --------------------------------------------------------------------------------------------------

    def _become(self, condition: SourceCondition, error: str = "") -> None:
        """Enter a state, and tell it where it is another one. An error stays until another one takes its place."""
        before = self.state
        if condition == before.state and error == before.error:
            return
        if condition == "live" and self._live_since is None:
            self._live_since = time.monotonic()
        self.state = msgspec.structs.replace(
            before, state=condition, since=time.time(), error=error or before.error if condition != "live" else ""
        )
        if condition == before.state:
            return
        name = self.spec.name
        fields = {"session_id": self._session.id, "source": name, "state": condition, "reason": error}
        logger.info("a source is %s", condition, extra=fields)
        data: dict[str, int | float | str] = {"source": name, "state": condition, "track": self.spec.track}
        self._session.say(Notice(code="source", message=error or f"the source is {condition}", data=data))

    def _discontinuity(self, gap_ms: int, jump_ms: int) -> None:
        data: dict[str, int | float | str] = {"source": self.spec.name, "track": self.spec.track}
        data |= {"gap_ms": gap_ms, "jump_ms": jump_ms}
        message = "the source was away, or its clock jumped"
        self._session.say(Notice(code="discontinuity", message=message, data=data))

    def _rest(self) -> None:
        """A connection ended: one that was good for a while is tried again soon."""
        if self._live_since is not None and time.monotonic() - self._live_since >= STEADY_S:
            self._backoff.reset()
        self._live_since = None
        self._polled = False
