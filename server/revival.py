"""After the bus came back without its data: live sessions that somebody here uses are opened again, under their ids.

Their memory is gone, and clients are told so; media go on, and so do questions that nobody had begun to answer. What
promises to lose nothing (``ingest: complete``) ends, and so does what no worker takes in time.
"""

from __future__ import annotations

import asyncio
import logging
import time

from protocol.errors import BusUnavailable, LogLost, LonglookError, NoCapacity, NotFound, Starting, UnknownModel
from protocol.messages import AnswerFailed, Closed, Notice, SessionSpec
from server.feeds import Feeds
from server.parts import Parts

logger = logging.getLogger(__name__)

PAUSE_S = 0.2
CALLED_S = 2.0  # a worker that was called takes the session within this time, or another one is


class Revival:
    """Knows the sessions in use here. ``begin`` is called once for each loss; times in seconds."""

    def __init__(self, parts: Parts, feeds: Feeds) -> None:
        self._bus = parts.bus
        self._board = parts.board
        self._relay = parts.relay
        self._questions = parts.questions
        self._background = parts.background
        self._wait_s = parts.settings.limits.unowned_s
        self._feeds = feeds
        self._known: dict[str, SessionSpec] = {}
        self._reviving: dict[str, asyncio.Event] = {}

    def know(self, spec: SessionSpec) -> None:
        """Somebody here uses the session. Known until nobody does."""
        if spec.session_id not in self._known:
            used = self._used()
            self._known = {name: known for name, known in self._known.items() if name in used}
        self._known[spec.session_id] = spec

    def reviving(self, session_id: str) -> bool:
        """Whether the session is being opened again."""
        return session_id in self._reviving

    async def settled(self, session_id: str) -> None:
        """Returns once the session is not being opened again, however that ended."""
        event = self._reviving.get(session_id)
        if event is not None:
            await event.wait()

    def begin(self) -> None:
        """The bus has lost its data: each session in use here is opened again, or ends."""
        self._board.forget()
        for session_id in self._used():
            for question_id, started in self._questions.of(session_id):
                if started:  # what was said of the answer cannot be gone on with: what it was about is gone
                    self._fail(session_id, question_id)
            spec = self._known.get(session_id)
            if spec is None or spec.ingest != "live":
                self._end(session_id)
            elif session_id not in self._reviving:
                self._reviving[session_id] = asyncio.Event()
                self._feeds.hold(session_id)
                self._background.start(self._revive(spec))

    def _used(self) -> set[str]:
        return {*self._relay.sessions(), *self._feeds.sessions()}

    async def _revive(self, spec: SessionSpec) -> None:
        session_id = spec.session_id
        newest_ms = self._feeds.newest_ms(session_id)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._open(spec, newest_ms)
            await self._go_on(session_id, newest_ms)
        except (TimeoutError, LonglookError) as error:
            logger.warning("a session could not be opened again: %r", error, extra={"session_id": session_id})
            self._end(session_id)
        finally:
            self._reviving.pop(session_id).set()
            self._feeds.go_on(session_id)

    async def _open(self, spec: SessionSpec, newest_ms: int) -> None:
        # Seconds since 1970 are above every epoch of before, and alike enough on all gateways that may do the same.
        epoch = int(time.time())
        while True:
            try:
                await self._board.place(spec, epoch=epoch, newest_ms=newest_ms)
                if await self._taken(spec.session_id):
                    return
            except (Starting, NoCapacity, UnknownModel, NotFound, BusUnavailable):
                await asyncio.sleep(PAUSE_S)

    async def _taken(self, session_id: str) -> bool:
        for _ in range(round(CALLED_S / PAUSE_S)):
            if (await self._bus.sessions.get(session_id)).state == "live":
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    async def _go_on(self, session_id: str, newest_ms: int) -> None:
        message = "the log of this session was lost, and its memory with it: it begins anew"
        self._relay.say(session_id, Notice(code=LogLost.code, message=message, data={"lost_ms": max(newest_ms, 0)}))
        for question_id, _ in self._questions.of(session_id):
            try:
                await self._questions.append_one_again(session_id, question_id)
            except LonglookError:
                self._fail(session_id, question_id)
        logger.info("session opened again", extra={"session_id": session_id})

    def _end(self, session_id: str) -> None:
        self._feeds.drop(session_id)
        for question_id, _ in self._questions.of(session_id):
            self._fail(session_id, question_id)
        self._relay.say(session_id, Closed(reason=LogLost.code))

    def _fail(self, session_id: str, question_id: str) -> None:
        message = "the log that held this question was lost"
        self._relay.say(session_id, AnswerFailed(question_id=question_id, code=LogLost.code, message=message))
