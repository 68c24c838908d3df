"""A session's live socket: media and questions out, answers, notices and health back, across reconnects."""

# ruff: noqa: ASYNC109 - a client library takes its limits as parameters

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, Unpack

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from longlook_client._answer import AnswerFeed, AsyncAnswer
from longlook_client._errors import (
    AnswerError,
    ConflictError,
    LonglookError,
    ServerError,
    WaitTimeoutError,
    named_error,
)
from longlook_client._events import answer_error, finished
from longlook_client._link import Link, TokenSource
from longlook_client._media import MediaStats, Packer, Unacknowledged
from longlook_client._options import QuestionOptions
from longlook_client._types import Connection, Delta, Health, Json, Notice
from longlook_client._wire import Codec, picture_codec

ACCEPT_TIMEOUT: Final = 30.0
EVENTS_KEPT: Final = 256
VIDEO_TRACK: Final = 0
AUDIO_TRACK: Final = 1
DEFAULT_SOUND: Final = (16000, 1)

Event = Health | Notice | ServerError | Connection


@dataclass
class _Question:
    feed: AnswerFeed
    request: Json
    sent_on: ClientConnection | None = None


class AsyncLiveSession:
    """Made by :meth:`AsyncSession.live`; use it as an async context manager.

    It reconnects by itself for up to ``reconnect_for`` seconds. While there is no connection, a live session's media is
    dropped and counted in :attr:`stats`, a complete session's is kept (bounded: sending waits) and sent again;
    questions are sent again under their ids, no delta is given twice. Leaving it closes the socket, not the session.
    """

    def __init__(
        self,
        url: str,
        session_id: str,
        *,
        token: str | None,
        new_token: TokenSource,
        reconnect_for: float,
    ) -> None:
        self.session_id = session_id
        self.stats = MediaStats()
        self.health: Health | None = None
        self._link = Link(
            url,
            session_id,
            token=token,
            new_token=new_token,
            reconnect_for=reconnect_for,
            on_ready=self._resume,
            on_message=self._take,
            on_lost=self._lose,
        )
        self._socket: ClientConnection | None = None
        self._order = asyncio.Lock()
        self._packer = Packer()
        self._kept: Unacknowledged | None = None  # a complete session's chunks until they are confirmed
        self._sounds: dict[int, tuple[int, int]] = {}
        self._media_ended = False
        self._questions: dict[str, _Question] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._arrived = asyncio.Event()
        self._ready = asyncio.Event()
        self._failure: LonglookError | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        runner = group.create_task(self._run(), name=f"live {self.session_id}")
        self._stack.callback(runner.cancel)
        try:
            await self._ready.wait()
            self._raise_if_over()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the socket; the session goes on without it until it is closed or found idle."""
        await self._stack.aclose()

    @property
    def connected(self) -> bool:
        return self._socket is not None

    @property
    def reconnects(self) -> int:
        return self._link.reconnects

    # --- media ---

    async def send_picture(self, picture: bytes, captured: float | None = None, *, track: int = VIDEO_TRACK) -> bool:
        """Sends one JPEG, PNG or WebP picture. ``captured`` is its time in seconds on any clock that only moves forward
        (default: now). ``False`` when it was dropped because there is no connection."""
        return await self._send_chunk(picture_codec(picture), track, captured, picture)

    async def send_h264(self, access_unit: bytes, captured: float | None = None, *, track: int = VIDEO_TRACK) -> bool:
        """Sends one H.264 access unit (Annex B, with its parameter sets at keyframes)."""
        return await self._send_chunk(Codec.H264, track, captured, access_unit)

    async def send_pcm(
        self,
        samples: bytes,
        captured: float | None = None,
        *,
        rate: int = 16000,
        channels: int = 1,
        track: int = AUDIO_TRACK,
    ) -> bool:
        """Sends interleaved signed 16-bit little-endian sound that starts at ``captured``."""
        if self._sounds.get(track, DEFAULT_SOUND) != (rate, channels):
            self._sounds[track] = (rate, channels)
            async with self._order:
                await self._put(_track_open(track, rate, channels))
        return await self._send_chunk(Codec.PCM16, track, captured, samples)

    async def end_media(self, timeout: float | None = 60.0) -> None:
        """Says that all media was sent. For a complete session it waits until the server has confirmed all of it."""
        async with self._order:
            self._media_ended = True
            await self._put({"type": "media.end"})
        if self._kept is None:
            return
        try:
            async with asyncio.timeout(timeout):
                while len(self._kept):
                    await self._kept_moved(self._kept)
        except TimeoutError as error:
            raise WaitTimeoutError(f"{len(self._kept)} chunks were not confirmed within {timeout} s") from error

    async def _send_chunk(self, codec: Codec, track: int, captured: float | None, payload: bytes) -> bool:
        self._raise_if_over()
        while self._kept is not None and self._kept.full():
            await self._kept_moved(self._kept)
        async with self._order:
            chunk = self._packer.pack(codec, track, captured, payload)
            if self._kept is not None:
                self._kept.add(chunk)
            if await self._put(chunk.message):
                self.stats.sent += 1
                return True
        if self._kept is None:
            self.stats.dropped += 1
        return self._kept is not None

    async def _kept_moved(self, kept: Unacknowledged) -> None:
        self._raise_if_over()
        await kept.moved()
        self._raise_if_over()

    # --- questions ---

    async def ask(
        self,
        question: str,
        **options: Unpack[QuestionOptions],
    ) -> AsyncAnswer:
        """Asks about the stream as it is now, or as it is at session time ``at_ms``; returns once the server has it."""
        self._raise_if_over()
        request = {"id": f"q_{uuid.uuid4().hex}", **options, "type": "question.create", "question": question}
        feed = AnswerFeed(str(request["id"]), question)
        pending = _Question(feed, request)
        self._questions[feed.id] = pending
        await self._put_question(pending)
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT):
                await feed.accepted.wait()
        except TimeoutError as error:
            del self._questions[feed.id]
            raise WaitTimeoutError(f"the question was not accepted within {ACCEPT_TIMEOUT:.0f} s") from error
        if isinstance(feed.outcome, LonglookError) and not isinstance(feed.outcome, AnswerError):
            raise feed.outcome
        return AsyncAnswer(feed, self._cancel_question)

    async def _put_question(self, question: _Question) -> None:
        socket = self._socket
        if socket is not None and question.sent_on is not socket:
            question.sent_on = socket
            await self._put(question.request)

    async def _cancel_question(self, question_id: str) -> None:
        self._raise_if_over()
        await self._put({"type": "question.cancel", "id": question_id})

    # --- what comes back ---

    async def events(self) -> AsyncIterator[Event]:
        """Health about once a second, notices, losses of the connection, and errors that belong to no question, until
        the session is over.

        The newest 256 are kept for a reader that comes late.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            if self._failure is not None:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def _take(self, message: Json) -> None:
        match message["type"]:
            case "session.ready":
                if self._kept is None and message["settings"]["ingest"] == "complete":
                    self._kept = Unacknowledged()
                self._ready.set()
            case "session.health":
                self.health = Health.from_json(message)
                self._tell(self.health)
            case "notice":
                self._tell(Notice.from_json(message))
            case "media.ack" if self._kept is not None:
                self._kept.acknowledge(message["track"], message["sequence"])
            case "error":
                self._take_error(message)
            case "question.accepted" | "answer.started" | "answer.delta" | "answer.done" | "answer.failed" as kind:
                if (question := self._questions.get(message["id"])) is not None:
                    self._take_answer(kind, message, question.feed)

    def _take_answer(self, kind: str, message: Json, feed: AnswerFeed) -> None:
        match kind:
            case "question.accepted":
                feed.accepted.set()
            case "answer.started":
                feed.start(message.get("as_of_ms"), message.get("mode"))
            case "answer.delta":
                feed.extend(Delta.from_json(message))
            case "answer.done":
                self._questions.pop(feed.id).feed.finish(finished(message, feed.question))
            case "answer.failed":
                self._questions.pop(feed.id).feed.finish(answer_error(message.get("error") or {}))

    def _take_error(self, message: Json) -> None:
        error = named_error(message["error"])
        question = self._questions.get(message.get("id") or "") or self._refused_unread(message)
        if question is None or question.feed.accepted.is_set():
            self._tell(error)
        elif isinstance(error, ConflictError) and self._link.reconnects:
            question.feed.accepted.set()  # it had arrived before the connection broke
        else:
            self._questions.pop(question.feed.id).feed.finish(error)

    def _refused_unread(self, message: Json) -> _Question | None:
        """The question that an error means which names nothing: a message too large to be read was refused whole."""
        if "id" in message or "track" in message:
            return None
        pending = [question for question in self._questions.values() if not question.feed.accepted.is_set()]
        return pending[0] if len(pending) == 1 else None

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    # --- the connection ---

    async def _run(self) -> None:
        try:
            await self._link.run()
        except LonglookError as error:
            self._failure = error
        finally:
            self._socket = None
            self._failure = self._failure or LonglookError("the live session was left")
            for question in self._questions.values():
                question.feed.finish(self._failure)
            self._questions.clear()
            self._arrived.set()
            self._ready.set()
            if self._kept is not None:
                self._kept.wake()

    async def _resume(self, socket: ClientConnection) -> None:
        async with self._order:
            for track, (rate, channels) in self._sounds.items():
                await socket.send(json.dumps(_track_open(track, rate, channels)))
            for chunk in self._kept.snapshot() if self._kept else ():
                await socket.send(chunk.message)
                self.stats.resent += 1
            if self._media_ended:
                await socket.send(json.dumps({"type": "media.end"}))
            self._socket = socket
        if self._link.reconnects:
            self._tell(Connection(True))
        for question in list(self._questions.values()):
            if not question.feed.accepted.is_set():
                await self._put_question(question)

    def _lose(self) -> None:
        self._socket = None
        self._tell(Connection(False))

    async def _put(self, message: bytes | Json) -> bool:
        socket = self._socket
        if socket is None:
            return False
        with suppress(ConnectionClosed):
            await socket.send(message if isinstance(message, bytes) else json.dumps(message))
            return True
        return False

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            raise self._failure


def _track_open(track: int, rate: int, channels: int) -> dict[str, Any]:
    return {"type": "track.open", "track": track, "codec": "pcm16", "rate": rate, "channels": channels}
