"""One live socket from its acceptance to its close: what the client says, and what it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from protocol.errors import BadHeader, BusUnavailable, LogLost, LonglookError, NotFound, Replaced
from protocol.ids import EntryId
from protocol.messages import Closed, Notice
from protocol.sessions import SessionRecord
from server.events import capabilities, health_body, output_event, settings_body, stored_kinds
from server.faults import error_event, notice_event
from server.gateway import Gateway
from server.media.ingest import Ingest
from server.protocols import ABORT
from server.relay import SlowReader, Subscription
from server.routes.commands import (
    MediaEnd,
    NotJson,
    Ping,
    QuestionCancel,
    QuestionCreate,
    SessionClose,
    TrackOpen,
    command_id,
    parse_chunk,
    parse_command,
)
from server.routes.outbox import CloseCode, Farewell, Outbox

logger = logging.getLogger(__name__)

ACKNOWLEDGED_EVERY_S = 0.1
BEAT_S = 0.25
BEATS_PER_HEALTH = 4
MISSES = 3
CLOSED_WITHIN_S = 5.0  # a worker says Closed within this time, or the client is told without it


class Side(Enum):
    """Where one side of the socket stands."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Dialogue:
    """One reader, one writer with a bounded outbox, a task that relays outputs, and two that tell how it goes."""

    def __init__(self, websocket: WebSocket, gateway: Gateway, record: SessionRecord, *, resumed: bool) -> None:
        self._websocket = websocket
        self._gateway = gateway
        self._record = record
        self._session_id = record.spec.session_id
        self._limits = gateway.settings.limits
        self._resumed = resumed
        self._outbox = Outbox()
        self._client = Side.OPEN
        self._server = Side.OPEN
        self._ingest: Ingest | None = None
        self._acknowledged: dict[int, tuple[int, int]] = {}
        self._progress = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._token_lost = False  # with the log that knew it
        self._leaving = False  # the client asked for the session's end

    # --- the whole of it ----------------------------------------------------------------------------------------------

    async def run(self, after: EntryId | None) -> None:
        """Accept the socket and serve it until either side ends it.

        Raises:
            LonglookError: it cannot be served, and was not accepted.
        """
        async with self._gateway.sessions.attend(self._record, after) as outputs:
            self._outbox.put({**await self._greeting(), "last_event_id": str(outputs.began)})
            await self._websocket.accept()
            metrics, begun = self._gateway.metrics, time.monotonic()
            metrics.websockets.inc()
            with metrics.websockets_active.track_inprogress():
                await self._serve(outputs)
            lasted = time.monotonic() - begun
            metrics.websocket_duration.observe(lasted)
            fields = {"session_id": self._session_id, "duration_ms": round(lasted * 1000)}
            logger.info("live socket closed", extra=fields)

    async def _serve(self, outputs: Subscription) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                others = [
                    tasks.create_task(self._read()),
                    tasks.create_task(self._relay(outputs)),
                    tasks.create_task(self._acknowledge_progress()),
                    tasks.create_task(self._inform()),
                ]
                await self._write()
                for task in [*others, *filter(None, [self._ending])]:
                    task.cancel()
        except Exception:
            logger.exception("a live socket failed", extra={"session_id": self._session_id})
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._websocket.close(CloseCode.INTERNAL, "a fault of the gateway")
        finally:
            if self._ingest is not None:
                self._ingest.detach(self)

    async def _greeting(self) -> dict[str, Any]:
        card = await self._gateway.board.card(self._record.spec.model)
        return {
            "type": "session.ready",
            "session": self._session_id,
            "resume_token": await self._resume_token(),
            "session_time_ms": self._record.ingest.session_time_ms,
            "settings": settings_body(self._record),
            "stored": stored_kinds(self._record),
            "capabilities": capabilities(card),
            "resumed": self._resumed,
        }

    # --- what the client hears ----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Send what the outbox holds until its farewell; a client that does not take it in time is cut off."""
        try:
            while self._client is Side.OPEN:
                item = await self._outbox.next()
                async with asyncio.timeout(self._limits.send_s):
                    if isinstance(item, Farewell):
                        self._server = Side.CLOSING
                        await self._websocket.close(item.code, item.reason)
                        break
                    await self._websocket.send_text(item)
        except TimeoutError:
            self._gateway.metrics.slow_readers.inc()
            logger.warning("a client does not read", extra={"session_id": self._session_id})
            self._cut()
        except WebSocketDisconnect:
            self._client = Side.CLOSED
        self._server = Side.CLOSED

    def _cut(self) -> None:
        """Drop the connection with all that it still holds: a close frame would wait behind what is not read."""
        abort = self._websocket.scope["extensions"].get(ABORT)
        if abort is not None:
            abort["drop"]()

    async def _relay(self, outputs: Subscription) -> None:
        while True:
            try:
                relayed = await outputs.next()
            except SlowReader:
                self._gateway.metrics.slow_readers.inc()
                self._outbox.close(CloseCode.SLOW, "the client does not read")
                return
            if relayed is None:
                if self._record.state == "closed":
                    self._tell_closed(self._record.reason)
                return
            event = output_event(relayed)
            if event is not None:
                self._outbox.put(event)
            if isinstance(relayed.output, Closed):
                self._end_session(relayed.output.reason)
                return
            if isinstance(relayed.output, Notice) and relayed.output.code == LogLost.code:
                self._token_lost = True

    def _tell_closed(self, reason: str) -> None:
        self._outbox.put({"type": "session.closed", "reason": reason})
        self._end_session(reason)

    def _end_session(self, reason: str) -> None:
        code = CloseCode.NORMAL if self._leaving else CloseCode.SESSION_CLOSED
        self._outbox.close(code, reason[:100])

    async def _inform(self) -> None:
        """Health every second, a new resume token now and then, and that the gateway drains."""
        token_beats = max(round(self._limits.resume_token_s / 3 / BEAT_S), 1)
        beat, missed, draining = 0, 0, False
        while not self._outbox.ending:
            await asyncio.sleep(BEAT_S)
            beat += 1
            if self._gateway.condition.draining.is_set() and not draining:
                draining = True
                self._outbox.put(notice_event("draining", "this gateway is going down: connect again", {}))
            try:
                if beat % BEATS_PER_HEALTH == 0:
                    await self._tell_health()
                    missed = 0
                if beat % token_beats == 0 or self._token_lost:
                    self._outbox.put({"type": "resume_token", "token": await self._resume_token()})
                    self._token_lost = False
            except NotFound:
                if self._gateway.sessions.reviving(self._session_id):
                    continue
                missed += 1  # where the whole log was lost, the gateway's own beat says so first
                if missed > MISSES:
                    self._tell_closed("expired")
            except BusUnavailable:
                continue

    async def _tell_health(self) -> None:
        before, self._record = self._record.state, await self._gateway.bus.sessions.get(self._session_id)
        if self._record.state == "waiting" and before != "waiting":
            self._outbox.put(notice_event("waiting", "no worker has room: the session waits for one", {}))
        self._outbox.put({"type": "session.health", **health_body(self._record)})

    async def _acknowledge_progress(self) -> None:
        """Soon after a chunk was received or settled, but not for each of many."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            self._acknowledge()
            await asyncio.sleep(ACKNOWLEDGED_EVERY_S)

    def _acknowledge(self) -> None:
        """Tell of the tracks that have got on."""
        if self._ingest is None:
            return
        for track, settled, received in self._ingest.acknowledgements():
            if self._acknowledged.get(track) != (settled, received):
                self._acknowledged[track] = (settled, received)
                told = {"track": track, "sequence": settled, "received": received}
                self._outbox.put({"type": "media.ack", **told, "session_time_ms": self._ingest.clock.newest_ms})

    async def _resume_token(self) -> str:
        life_ms = self._limits.resume_token_s * 1000
        return await self._gateway.bus.tokens.issue(self._session_id, "resume", life_ms=life_ms)

    # --- what the client says -----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while self._server is Side.OPEN and not self._outbox.ending:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._client = Side.CLOSED
                self._outbox.close(CloseCode.NORMAL, "")
                return
            if (data := message.get("bytes")) is not None:
                await self._chunk(data)
            else:
                await self._command(message.get("text") or "")

    async def _chunk(self, data: bytes) -> None:
        try:
            chunk = parse_chunk(data)
        except BadHeader as error:
            self._outbox.put(error_event(error))
            self._outbox.close(CloseCode.BAD_MESSAGE, error.message)
            return
        await self._gateway.media.pace(self._record.spec.tenant, self._limits.bytes_per_s, len(data))
        try:
            await (await self._feed()).offer(self, chunk)
            self._progress.set()
        except Replaced:
            self.replaced()
        except LonglookError as error:
            self._outbox.put(error_event(error, track=chunk.track, sequence=chunk.sequence))

    async def _command(self, text: str) -> None:
        try:
            await self._obey(text)
        except NotJson as error:
            self._outbox.put(error_event(error))
            self._outbox.close(CloseCode.BAD_MESSAGE, error.message)
        except LonglookError as error:
            named = command_id(text) if len(text) <= self._limits.control_bytes else None
            self._outbox.put(error_event(error) if named is None else error_event(error, id=named))

    async def _obey(self, text: str) -> None:
        sessions = self._gateway.sessions
        match parse_command(text, self._limits.control_bytes):
            case QuestionCreate() as question:
                question_id = await sessions.ask(self._record, question.terms())
                self._outbox.put({"type": "question.accepted", "id": question_id})
            case QuestionCancel(id=question_id):
                await sessions.cancel(self._session_id, question_id)
            case TrackOpen() as track:
                (await self._feed()).open_track(track.track, track.rate, track.channels)
            case MediaEnd():
                if self._ending is None or self._ending.done():
                    self._ending = self._tasks.create_task(self._end_media())
            case Ping(t=t):
                self._outbox.put({"type": "pong", "t": t})
            case SessionClose():
                self._leaving = True
                await sessions.close(self._record, "client")
                self._ending = self._tasks.create_task(self._close_without_worker())

    async def _end_media(self) -> None:
        try:
            await self._gateway.sessions.end_media(self._record)
        except LonglookError as error:
            self._outbox.put(error_event(error))
        self._acknowledge()

    async def _close_without_worker(self) -> None:
        await asyncio.sleep(CLOSED_WITHIN_S)
        self._tell_closed("client")

    async def _feed(self) -> Ingest:
        """The session's ingest, fed by this socket from its first chunk on."""
        ingest = await self._gateway.sessions.feed(self._record)
        if ingest is not self._ingest:
            self._ingest = ingest
            ingest.attach(self)
        return ingest

    # --- what the ingest says -----------------------------------------------------------------------------------------

    def tell(self, event: Mapping[str, Any]) -> None:
        self._outbox.put(event)

    def settled(self) -> None:
        self._progress.set()

    def replaced(self) -> None:
        self._outbox.put(notice_event("replaced_publisher", "another connection feeds this session now", {}))
        self._outbox.close(CloseCode.REPLACED, "replaced")
