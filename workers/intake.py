"""What comes in on one session's lanes, and what the engine is told of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.ids import START, EntryId
from protocol.leases import Cursor, LaneEntry, Lease
from protocol.messages import Ask, Cancel, Close, Lane, MediaEnd, Notice, Picture, Sound
from workers.answers import Answers
from workers.engine.messages import AskQuestion, CancelQuestion
from workers.feed import Engine, FrameFeed
from workers.outbox import Outbox
from workers.reading import Reading
from workers.settings import Settings

log = logging.getLogger(__name__)

MEDIA_LANES: tuple[Lane, ...] = ("audio", "video")
PCM_BYTES_PER_MS = 32  # 16 kHz, 16 bit, mono


class Intake:
    """Reads under the lease in two steps: ``cursors_after`` says where a batch leaves the cursors, and ``take`` acts on
    it once those are committed.
    """

    def __init__(
        self,
        bus: Bus,
        engine: Engine,
        lease: Lease,
        settings: Settings,
        *,
        engine_id: str,
        feed: FrameFeed,
        answers: Answers,
        outbox: Outbox,
        close: Callable[[str], None],
    ) -> None:
        """``close`` is called with the reason when the session is to be closed."""
        self._bus = bus
        self._engine = engine
        self._lease = lease
        self._settings = settings
        self._engine_id = engine_id
        self._feed = feed
        self._answers = answers
        self._outbox = outbox
        self._close = close
        self._complete = lease.spec.ingest == "complete"
        self._reading = Reading(lease)
        self._rebuilt_at = START
        self._media_end: MediaEnd | None = lease.media_end
        self._media_end_id: EntryId | None = None
        self._heard_sound = False
        self._open = False
        self.audio_ms = 0

    def rebuild(self, video_end: EntryId) -> None:
        """What the video lane holds up to ``video_end`` is read without loss, however old it is."""
        self._rebuilt_at = video_end

    def open(self) -> None:
        """The lanes may be read from now on."""
        self._open = True

    def shut(self) -> None:
        """Nothing is read any more; what was read but not taken is the next owner's business."""
        self._open = False

    def positions(self) -> dict[Lane, EntryId]:
        """Where to read on in each lane; without the video lane while its pictures must wait."""
        if not self._open:
            return {}
        wanted: tuple[Lane, ...] = ("control", "audio", "video")
        if self._lossless and self._feed.full:
            wanted = ("control", "audio")
        return {lane: self._reading.at(lane) for lane in wanted}

    def cursors_after(self, entries: Sequence[LaneEntry]) -> dict[Lane, Cursor]:
        """The cursors as they will be when ``entries`` are read."""
        return self._reading.after(entries)

    async def take(self, entries: Sequence[LaneEntry], cursors: Mapping[Lane, Cursor]) -> None:
        """Acts on entries whose cursors are committed: control first, so that no question waits behind a picture."""
        if not self._open:
            return
        for lane in MEDIA_LANES:
            self._report(lane, self._reading.missed(lane, entries))
        for entry in sorted(entries, key=lambda entry: entry.lane != "control"):
            await self._take_one(entry)
        self._reading.move(cursors)
        await self.settle()

    async def settle(self) -> None:
        """Passes the end of the media on once all that came before it was read."""
        if self._media_end is None or not self._open:
            return
        if self._media_end_id is None:
            try:
                self._media_end_id = await self._bus.leases.newest(self._lease.session_id, "video")
            except BusUnavailable:
                return  # asked again within a second
        if self._reading.at("video") >= self._media_end_id:
            self._feed.end()
            self._media_end = None

    async def ask(self, ask: Ask, *, prefix: tuple[int, ...] = (), resumed: bool = False) -> None:
        """Puts a question to the engine. ``prefix``: what of its answer was published by an owner before."""
        self._answers.begin(ask, prefix=prefix, resumed=resumed)
        await self._engine.send(
            AskQuestion(
                session_id=self._engine_id,
                question_id=ask.question_id,
                text=ask.text,
                at_ms=ask.at_ms,
                wait_until=time.monotonic() + self._patience(),
                mode=ask.mode,
                remember=ask.remember,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                prefix=prefix,
            )
        )

    @property
    def _rebuilding(self) -> bool:
        return self._reading.at("video") < self._rebuilt_at

    @property
    def _lossless(self) -> bool:
        return self._complete or self._rebuilding

    async def _take_one(self, entry: LaneEntry) -> None:
        match entry.message:
            case Picture() as picture:
                self._feed.offer(picture, lossless=self._lossless, age_s=entry.age_s)
            case Sound() as sound:
                self._listen(sound)
            case Ask() as ask:
                # Questions that an owner before has read are either answered or among the lease's unanswered.
                if entry.id > self._lease.control_end and ask.question_id not in self._answers:
                    await self.ask(ask)
            case Cancel() as cancel:
                await self._engine.send(CancelQuestion(session_id=self._engine_id, question_id=cancel.question_id))
            case MediaEnd() as end:
                self._media_end, self._media_end_id = end, None
            case Close() as close:
                self._close(close.reason)
            case None:
                log.warning("an entry cannot be read", extra={"session_id": self._lease.session_id})

    def _patience(self) -> float:
        if self._complete:
            return self._settings.complete_wait_s
        return self._settings.rebuild_s if self._rebuilding else self._settings.live_wait_s

    def _listen(self, sound: Sound) -> None:
        """Sound is kept by its lane; a model that cannot hear it says so once."""
        self.audio_ms += len(sound.pcm) // PCM_BYTES_PER_MS
        if not self._heard_sound and not self._engine.ready.card.audio:
            message = "sound is kept with the session, but this model does not understand it"
            self._outbox.put(Notice(code="audio_not_understood", message=message))
        self._heard_sound = True

    def _report(self, lane: Lane, missed: int) -> None:
        if missed and lane == "video":
            self._feed.dropped["trimmed"] += missed
        elif missed:
            data: dict[str, int | float | str] = {"lane": lane, "missed": missed}
            self._outbox.put(Notice(code="discontinuity", message="media was lost before it could be read", data=data))
