"""One session that this worker owns: how it is taken up, what the engine says about it, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from protocol.bus import Bus
from protocol.errors import BusUnavailable, LeaseLost, NotFound, Quarantined, WorkerLost
from protocol.leases import Lease
from protocol.messages import (
    AnswerDone,
    AnswerFailed,
    Notice,
    Output,
    Owned,
    QuestionRecord,
    SessionStats,
)
from workers.answers import Answers
from workers.engine.messages import (
    CloseSession,
    EngineNotice,
    Event,
    FrameTaken,
    Opened,
    OpenSession,
    QuestionDone,
    QuestionStarted,
    Refused,
    RememberTurn,
    SessionClosed,
    Tokens,
)
from workers.feed import Engine, FrameFeed
from workers.intake import Intake
from workers.outbox import Outbox
from workers.pictures import PictureDecoder
from workers.settings import Settings
from workers.takeover import find_before, published_tokens

log = logging.getLogger(__name__)

CRASHES = 3  # engines that a session may cost before it is quarantined
CLOSE_S = 5.0  # wait for the engine's and the bus's last words about a session


@dataclass(frozen=True)
class Ending:
    """Why ownership ends: the session is ``closed``, given up as an ``orphan``, or ``lost`` to another worker."""

    fate: Literal["closed", "orphan", "lost"]
    reason: str = ""


class Ownership:
    """Made with a fresh lease; ``run`` lasts as long as the ownership does.

    The worker's reader reads what ``intake`` asks for; its event loop calls ``hear``.
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
        self._outbox = Outbox(bus.outputs, lease.session_id, lease.epoch)
        self._answers = Answers()
        self._feed = FrameFeed(
            engine,
            decoder,
            self.engine_id,
            under_way=settings.frames_under_way,
            live_lag_s=settings.live_lag_s,
            has_room=positions_changed,
        )
        self.intake = Intake(
            bus,
            engine,
            lease,
            settings,
            engine_id=self.engine_id,
            feed=self._feed,
            answers=self._answers,
            outbox=self._outbox,
            close=lambda reason: self.end(Ending("closed", reason)),
        )
        self._positions_changed = positions_changed
        self._kv_budget_bytes = 0
        self._engine_closed = asyncio.Event()
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
            self.intake.shut()
            feeding.cancel()
            await self._finish(ending)
            writing.cancel()
        return ending

    def end(self, ending: Ending) -> None:
        """Lets ``run`` finish; the first call decides how."""
        self.intake.shut()
        if not self._ending.done():
            self._ending.set_result(ending)

    def hear(self, event: Event) -> None:
        """Takes one event of the engine's about this session."""
        turn = self._answers.turn(event, self._feed.trunk_time_ms) if isinstance(event, QuestionDone) else None
        output = self._output_of(event)
        if output is not None:
            self._outbox.put(output, turn)

    async def quiet(self) -> None:
        """Returns once no answer is under way."""
        await self._answers.none_left()

    @property
    def dropped_for_load(self) -> int:
        """Live pictures that were lost because they waited too long."""
        return self._feed.dropped["late"] + self._feed.dropped["backlog"]

    def stats(self) -> SessionStats:
        return SessionStats(
            trunk_time_ms=self._feed.trunk_time_ms,
            lag_ms=self._feed.lag_ms,
            frames_prefilled=self._feed.prefilled,
            frames_dropped=dict(self._feed.dropped),
            kv_bytes=self._feed.kv_bytes,
            kv_budget_bytes=self._kv_budget_bytes,
            tokens=self._feed.tokens,
            audio_ms=self.intake.audio_ms,
        )

    async def _begin(self) -> None:
        before = await find_before(self._bus, self.lease)
        self.intake.rebuild(before.video_end)
        owned = Owned(worker_id=self.lease.worker_id, lost_ms=before.lost_ms)
        await self._bus.outputs.append(self.session_id, self.lease.epoch, [(0, owned)])
        if self.lease.crashes >= CRASHES:
            await self._quarantine()
            return
        await self._engine.send(
            OpenSession(
                session_id=self.engine_id,
                budget_tokens=self.lease.spec.budget_tokens,
                policy=self.lease.spec.policy,
                instructions=self.lease.spec.instructions,
                complete=self.lease.spec.ingest == "complete",
                dropping=self.lease.spec.dropping,
                alone=self.lease.crashes > 0,
            )
        )
        for turn in before.turns:
            await self._engine.send(
                RememberTurn(
                    session_id=self.engine_id, at_ms=turn.at_ms, question=turn.question, answer=tuple(turn.answer)
                )
            )
        await self._resume_questions()
        if self.lease.closing:
            self.end(Ending("closed", "client"))
        else:
            self.intake.open()
            self._positions_changed()
        extra = {"session_id": self.session_id, "epoch": self.lease.epoch, "lost_ms": before.lost_ms}
        log.info("session taken", extra=extra)

    async def _quarantine(self) -> None:
        """Ends a session that no engine survives, and each of its questions with it."""
        await self._bus.lanes.close(self.session_id, Quarantined.code)
        lease = await self._bus.leases.acquire(self.session_id, self.lease.worker_id)  # with the last questions
        message = f"{CRASHES} engines have ended over this session's work"
        for question_id in lease.unanswered:
            self._outbox.put(AnswerFailed(question_id=question_id, code=Quarantined.code, message=message))
        log.error("session quarantined", extra={"session_id": self.session_id, "count": self.lease.crashes})
        self._engine_closed.set()
        self.end(Ending("closed", Quarantined.code))

    async def _resume_questions(self) -> None:
        """Takes up the questions that the owner before left open."""
        open_questions = self.lease.unanswered
        published = await published_tokens(self._bus, self.session_id, open_questions) if open_questions else {}
        for question_id in open_questions:
            try:
                record = await self._bus.outputs.question(self.session_id, question_id)
            except NotFound:
                self._give_up(question_id, "no worker has answered this question for as long as it was kept")
            else:
                await self._resume(record, published.get(question_id))

    async def _resume(self, record: QuestionRecord, published: tuple[int, ...] | None) -> None:
        """An answer goes on from its published tokens, if it had begun."""
        question_id, at_ms = record.ask.question_id, record.ask.at_ms
        if record.cancelled:
            cancelled = AnswerDone(question_id=question_id, text="", finish_reason="cancelled", as_of_ms=at_ms)
            self._outbox.put(cancelled)
        elif record.started and published is None:
            self._give_up(question_id, "the worker was lost during this answer, and its beginning is no longer kept")
        else:
            await self.intake.ask(record.ask, prefix=published or (), resumed=record.started)

    def _give_up(self, question_id: str, message: str) -> None:
        self._outbox.put(AnswerFailed(question_id=question_id, code=WorkerLost.code, message=message))

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
