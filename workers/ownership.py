"""One session that this worker owns: its lanes in, the engine, its outputs out, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from protocol.bus import Bus
from protocol.errors import BusUnavailable, LeaseLost, NotFound
from protocol.ids import START, EntryId
from protocol.leases import Cursor, LaneEntry, Lease
from protocol.messages import (
    AnswerDone,
    AnswerFailed,
    Ask,
    Cancel,
    Close,
    Lane,
    MediaEnd,
    Notice,
    Output,
    Owned,
    Picture,
    QuestionRecord,
    SessionStats,
    Sound,
)
from workers.answers import Answers
from workers.engine.messages import (
    AskQuestion,
    CancelQuestion,
    CloseSession,
    EngineNotice,
    Event,
    FrameTaken,
    Opened,
    OpenSession,
    QuestionDone,
    QuestionStarted,
    Refused,
    SessionClosed,
    Tokens,
)
from workers.feed import Engine, FrameFeed
from workers.outbox import Outbox
from workers.pictures import PictureDecoder
from workers.reading import Reading
from workers.settings import Settings
from workers.takeover import find_before, published_tokens

log = logging.getLogger(__name__)

CLOSE_S = 5.0  # wait for the engine's and the bus's last words about a session
MEDIA_LANES: tuple[Lane, ...] = ("audio", "video")
PCM_BYTES_PER_MS = 32  # 16 kHz, 16 bit, mono


@dataclass(frozen=True)
class Ending:
    """Why ownership ends: the session is ``closed``, given up as an ``orphan``, or ``lost`` to another worker."""

    fate: Literal["closed", "orphan", "lost"]
    reason: str = ""


class Ownership:
    """Made with a fresh lease; ``run`` lasts as long as the ownership does.

    The worker's reader calls ``cursors_after``, commits those, and calls ``take``; its event loop calls ``hear``.
    """

    def __init__(
        self,
        bus: Bus,
        engine: Engine,
        decoder: PictureDecoder,
        lease: Lease,
        settings: Settings,
        positions_changed: Callable[[], None],
    ) -> None:
        """``positions_changed`` is called when lanes should be read that were not before."""
        self.lease = lease
        self.session_id = lease.session_id
        self.engine_id = f"{lease.session_id}.{lease.epoch}"  # an owner's leftovers are never taken for the next one's
        self._bus = bus
        self._engine = engine
        self._settings = settings
        self._complete = lease.spec.ingest == "complete"
        self._outbox = Outbox(bus.outputs, lease.session_id, lease.epoch)
        self._feed = FrameFeed(
            engine,
            decoder,
            self.engine_id,
            under_way=settings.frames_under_way,
            live_lag_s=settings.live_lag_s,
            has_room=positions_changed,
        )
        self._answers = Answers()
        self._reading = Reading(lease)
        self._begun = False
        self._positions_changed = positions_changed
        self._rebuilt_at = START  # the video lane's end when this owner came
        self._media_end: MediaEnd | None = None
        self._media_end_id: EntryId | None = None
        self._heard_sound = False
        self._audio_ms = 0
        self._kv_budget_bytes = 0
        self._engine_closed = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        """Speaks for the session until it ends. Raises EngineDied (in a group) where the engine does."""
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feed.run(), name="feed")
            writing = group.create_task(self._write(), name="outbox")
            try:
                await self._begin()
            except (LeaseLost, NotFound):
                self.end(Ending("lost"))
            except BusUnavailable:
                self.end(Ending("orphan"))
            ending = await self._ending
            self._begun = False
            feeding.cancel()
            await self._finish(ending)
            writing.cancel()
        return ending

    def end(self, ending: Ending) -> None:
        """Lets ``run`` finish; the first call decides how."""
        if not self._ending.done():
            self._ending.set_result(ending)

    # --- what the worker's loops call ---------------------------------------------------------------------------------

    def positions(self) -> dict[Lane, EntryId]:
        """Where to read on in each lane; without the video lane while its pictures must wait."""
        if not self._begun:
            return {}
        wanted: tuple[Lane, ...] = ("control", "audio", "video")
        if self._lossless and self._feed.full:
            wanted = ("control", "audio")
        return {lane: self._reading.at(lane) for lane in wanted}

    def cursors_after(self, entries: Sequence[LaneEntry]) -> dict[Lane, Cursor]:
        """The cursors as they will be when ``entries`` are read."""
        return self._reading.after(entries)

    async def take(self, entries: Sequence[LaneEntry], cursors: Mapping[Lane, Cursor]) -> None:
        """Acts on entries whose cursors are committed. After the end that is the next owner's business."""
        if self._ending.done():
            return
        for lane in MEDIA_LANES:
            self._report(lane, self._reading.missed(lane, entries))
        for entry in sorted(entries, key=lambda entry: entry.lane != "control"):
            await self._take_one(entry)
        self._reading.move(cursors)
        await self.settle()

    def hear(self, event: Event) -> None:
        """Takes one event of the engine's about this session."""
        output = self._output_of(event)
        if output is not None:
            self._outbox.put(output)
        if not self._answers:
            self._quiet.set()

    async def settle(self) -> None:
        """Passes the end of the media on once all that came before it was read."""
        if self._media_end is None:
            return
        if self._media_end_id is None:
            try:
                self._media_end_id = await self._bus.leases.newest(self.session_id, "video")
            except BusUnavailable:
                return  # asked again within a second
        if self._reading.at("video") >= self._media_end_id:
            self._feed.end(self._media_end.at_ms)
            self._media_end = None

    async def quiet(self) -> None:
        """Returns once no answer is under way."""
        await self._quiet.wait()

    def stats(self) -> SessionStats:
        return SessionStats(
            trunk_time_ms=self._feed.trunk_time_ms,
            lag_ms=self._feed.lag_ms,
            frames_prefilled=self._feed.prefilled,
            frames_dropped=dict(self._feed.dropped),
            kv_bytes=self._feed.kv_bytes,
            kv_budget_bytes=self._kv_budget_bytes,
            tokens=self._feed.tokens,
            audio_ms=self._audio_ms,
        )

    # --- beginning and end --------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        before = await find_before(self._bus, self.lease)
        self._rebuilt_at = before.video_end
        owned = Owned(worker_id=self.lease.worker_id, lost_ms=before.lost_ms)
        await self._bus.outputs.append(self.session_id, self.lease.epoch, [(0, owned)])
        await self._engine.send(
            OpenSession(
                session_id=self.engine_id,
                budget_tokens=self.lease.spec.budget_tokens,
                policy=self.lease.spec.policy,
                instructions=self.lease.spec.instructions,
                complete=self._complete,
            )
        )
        for question_id in self.lease.unanswered:
            await self._resume(await self._bus.outputs.question(self.session_id, question_id))
        self._media_end = self.lease.media_end
        if self.lease.closing:
            self.end(Ending("closed", "client"))
        self._begun = True
        self._positions_changed()
        extra = {"session_id": self.session_id, "epoch": self.lease.epoch, "lost_ms": before.lost_ms}
        log.info("session taken", extra=extra)

    async def _resume(self, record: QuestionRecord) -> None:
        """Takes up a question that the owner before left open: from its published tokens on, if it had begun."""
        question_id, at_ms = record.ask.question_id, record.ask.at_ms
        if record.cancelled:
            cancelled = AnswerDone(question_id=question_id, text="", finish_reason="cancelled", as_of_ms=at_ms)
            self._outbox.put(cancelled)
            return
        prefix = await published_tokens(self._bus, self.session_id, question_id) if record.started else ()
        if prefix is None:
            message = "the worker was lost during this answer, and its beginning is no longer kept"
            self._outbox.put(AnswerFailed(question_id=question_id, code="worker_lost", message=message))
            return
        await self._ask(record.ask, prefix=prefix, resumed=record.started)

    async def _finish(self, ending: Ending) -> None:
        """Says the session's last words; what the bus does not take in time is left to whoever owns it next."""
        await self._engine.send(CloseSession(session_id=self.engine_id))
        try:
            async with asyncio.timeout(CLOSE_S):
                if ending.fate == "closed":
                    await self._close(ending.reason)
                elif ending.fate == "orphan":
                    await self._outbox.drained()
                    await self._bus.leases.release(self.lease)
        except (BusUnavailable, TimeoutError):
            log.warning("the session's end could not be written", extra={"session_id": self.session_id})
        extra = {
            "session_id": self.session_id,
            "epoch": self.lease.epoch,
            "state": ending.fate,
            "reason": ending.reason,
        }
        log.info("session left", extra=extra)

    async def _close(self, reason: str) -> None:
        await self._engine_closed.wait()
        for failed in self._answers.fail_all("session_closed", "the session was closed"):
            self._outbox.put(failed)
        await self._outbox.drained()
        lease = self.lease
        await self._bus.sessions.finish(self.session_id, reason, worker_id=lease.worker_id, epoch=lease.epoch)

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except LeaseLost:
            self.end(Ending("lost"))

    # --- lanes in -----------------------------------------------------------------------------------------------------

    @property
    def _rebuilding(self) -> bool:
        return self._reading.at("video") < self._rebuilt_at

    @property
    def _lossless(self) -> bool:
        return self._complete or self._rebuilding

    async def _take_one(self, entry: LaneEntry) -> None:
        match entry.message:
            case Picture() as picture:
                self._feed.offer(picture, lossless=self._lossless)
            case Sound() as sound:
                self._listen(sound)
            case Ask() as ask:
                # Questions that an owner before has read are either answered or among the lease's unanswered.
                if entry.id > self.lease.control_end and ask.question_id not in self._answers:
                    await self._ask(ask)
            case Cancel() as cancel:
                await self._engine.send(CancelQuestion(session_id=self.engine_id, question_id=cancel.question_id))
            case MediaEnd() as end:
                self._media_end, self._media_end_id = end, None
            case Close() as close:
                self.end(Ending("closed", close.reason))
            case None:
                log.warning("an entry cannot be read", extra={"session_id": self.session_id})

    async def _ask(self, ask: Ask, *, prefix: tuple[int, ...] = (), resumed: bool = False) -> None:
        self._answers.begin(ask, resumed=resumed)
        self._quiet.clear()
        await self._engine.send(
            AskQuestion(
                session_id=self.engine_id,
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

    def _patience(self) -> float:
        if self._complete:
            return self._settings.complete_wait_s
        return self._settings.rebuild_s if self._rebuilding else self._settings.live_wait_s

    def _listen(self, sound: Sound) -> None:
        """Sound is kept by its lane; a model that cannot hear it says so once."""
        self._audio_ms += len(sound.pcm) // PCM_BYTES_PER_MS
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

    # --- events out ---------------------------------------------------------------------------------------------------

    def _output_of(self, event: Event) -> Output | None:
        match event:
            case FrameTaken():
                self._feed.taken(event)
            case QuestionStarted() | Tokens() | QuestionDone():
                return self._answers.hear(event)
            case Refused(question_id=""):
                self._engine_closed.set()
                self.end(Ending("closed", event.code))
            case Refused():
                return self._answers.hear(event)
            case EngineNotice():
                data: dict[str, int | float | str] = {"question_id": event.question_id} if event.question_id else {}
                return Notice(code=event.code, message=event.message, data=data)
            case Opened():
                self._kv_budget_bytes = event.kv_budget_bytes
            case SessionClosed():
                self._engine_closed.set()
            case _:
                pass
        return None
