"""The sessions that this gateway feeds: their way in, kept while somebody uses it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from protocol.errors import BusUnavailable, LonglookError, NotFound
from protocol.messages import ModelCard, SessionSpec
from protocol.sessions import SessionRecord
from server.faults import error_event
from server.journal.recorder import Recorder
from server.media.clock import COMPLETE_JUMP_MS, LIVE_JUMP_MS, SessionClock
from server.media.continuity import Continuity
from server.media.ingest import Ingest
from server.media.jobs import Preamble, Setup, decode_preamble, encode
from server.media.publisher import LanePublisher
from server.media.tally import Tally
from server.parts import Parts
from server.settings import Settings

logger = logging.getLogger(__name__)

KEPT_BYTES = 16 << 10  # of a preamble that other gateways are to find: real ones have a tenth of it
IDLE_S = 120.0  # a feed that nobody used for longer is given up; its clock is in the session's record
SILENT_S = 5.0  # what was not used for longer has nothing new to publish, and may be another gateway's by now


@dataclass
class _Feed:
    ingest: Ingest
    task: asyncio.Task[None]
    used_at: float


class Feeds:
    """Makes a session's ingest when it is first used here. Each runs in the background, and fails alone."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._feeds: dict[str, _Feed] = {}

    async def of(self, record: SessionRecord) -> Ingest:
        """The session's ingest. Raises Starting where the session's model is not known yet, and NoSandbox."""
        self._parts.nursery.check()
        session_id = record.spec.session_id
        if session_id not in self._feeds:
            card = await self._parts.board.card(record.spec.model)
            recorder = await self._parts.journal.recorder(record.spec)
            with suppress(BusUnavailable, NotFound):
                record = await self._parts.bus.sessions.get(session_id)  # another gateway may have fed it meanwhile
            if session_id not in self._feeds:
                self._start(record, card, recorder)
        feed = self._feeds[session_id]
        feed.used_at = time.monotonic()
        return feed.ingest

    def known(self, session_id: str) -> Ingest | None:
        """The session's ingest if it is fed here."""
        feed = self._feeds.get(session_id)
        return None if feed is None else feed.ingest

    def sessions(self) -> list[str]:
        """Ids of the sessions that are fed here."""
        return list(self._feeds)

    def hold(self, session_id: str) -> None:
        """The session's lanes are gone, and will be made anew: what is taken waits until ``go_on``."""
        if session_id in self._feeds:
            self._feeds[session_id].ingest.publisher.hold()

    def go_on(self, session_id: str) -> None:
        """The lanes are there again."""
        if session_id in self._feeds:
            self._feeds[session_id].ingest.publisher.go_on()

    def newest_ms(self, session_id: str) -> int:
        """Session time of the newest capture accepted here, -1 for none."""
        feed = self._feeds.get(session_id)
        return -1 if feed is None else feed.ingest.clock.newest_ms

    def drop(self, session_id: str) -> None:
        """Feed the session no more; what waits for its lanes is lost."""
        feed = self._feeds.pop(session_id, None)
        if feed is not None:
            feed.task.cancel()
            self._parts.metrics.active_streams.set(len(self._feeds))

    async def publish(self) -> None:
        """Once a second: each session's stats to its record, and feeds that nobody uses away. Raises BusUnavailable."""
        now = time.monotonic()
        for session_id, feed in list(self._feeds.items()):
            if feed.ingest.fed:
                feed.used_at = now
            if now - feed.used_at > IDLE_S:
                self.drop(session_id)
            elif now - feed.used_at <= SILENT_S:
                await self._publish(session_id)

    async def _publish(self, session_id: str) -> None:
        feed = self._feeds.get(session_id)
        if feed is not None:
            await self._parts.bus.sessions.publish_ingest(session_id, feed.ingest.stats())

    def _start(self, record: SessionRecord, card: ModelCard, recorder: Recorder) -> None:
        session_id = record.spec.session_id
        ingest = self._made(record, card, recorder)
        task = self._parts.background.start(self._carry(session_id, ingest))
        self._feeds[session_id] = _Feed(ingest, task, time.monotonic())
        self._parts.metrics.active_streams.set(len(self._feeds))

    def _made(self, record: SessionRecord, card: ModelCard, recorder: Recorder) -> Ingest:
        parts, session_id = self._parts, record.spec.session_id
        limits = parts.settings.limits
        lossless = record.spec.ingest == "complete"
        return Ingest(
            setup=_setup(parts.settings, card, record.spec),
            clock=SessionClock(
                lossless=lossless,
                newest_ms=max(record.ingest.session_time_ms, *record.heard.values(), -1),
                newest_at=record.ingest.newest_at,
                origin_us=record.ingest.origin_us,
            ),
            publisher=LanePublisher(
                parts.bus.lanes,
                session_id,
                lossless=lossless,
                backlog=limits.backlog,
                stall_s=limits.stall_s,
                claimed=lambda: self._publish(session_id),  # the clock, before anything is stamped by it
            ),
            nursery=parts.nursery,
            limits=limits,
            tally=Tally(parts.metrics, record.ingest),
            recorder=recorder,
            lossless=lossless,
            continuity=Continuity(_preambles(record), lambda preamble: self._keep(session_id, preamble)),
        )

    async def _keep(self, session_id: str, preamble: Preamble) -> None:
        packed = encode(preamble)
        if len(packed) <= KEPT_BYTES:
            with suppress(LonglookError):
                await self._parts.bus.sessions.keep_preamble(session_id, preamble.track, packed)

    async def _carry(self, session_id: str, ingest: Ingest) -> None:
        try:
            await ingest.run()
        except Exception:
            # One session's fault must not end the task group that all sessions share.
            logger.exception("a session's way in failed", extra={"session_id": session_id})
            ingest.tell(error_event(LonglookError("the session's way in failed; it begins again with the next chunk")))
        # Another gateway may feed the session now: whoever feeds it here again begins from what that one has left.
        if self.known(session_id) is ingest:
            self.drop(session_id)


def _setup(settings: Settings, card: ModelCard, spec: SessionSpec) -> Setup:
    """What the session's decoders are told: the model's form of pictures, and their bounds."""
    limits = settings.limits
    return Setup(
        width=card.frame_width,
        height=card.frame_height,
        fps=spec.fps,
        quality=settings.jpeg_quality,
        max_pixels=limits.picture_pixels,
        max_video_pixels=limits.video_pixels,
        memory_bytes=limits.decoder_bytes,
        cpu_seconds=limits.decode_cpu_s,
        preamble_bytes=limits.preamble_bytes,
        jump_ms=round(COMPLETE_JUMP_MS if spec.ingest == "complete" else LIVE_JUMP_MS),
    )


def _preambles(record: SessionRecord) -> dict[int, Preamble]:
    """What the gateway before found in the session's tracks."""
    return {track: decode_preamble(packed) for track, packed in record.preambles.items()}
