"""The same client for code without an event loop: a background thread runs the asynchronous one."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from types import TracebackType
from typing import Any, Self, Unpack

from longlook_client._answer import AsyncAnswer
from longlook_client._client import AsyncClient
from longlook_client._live import AUDIO_TRACK, VIDEO_TRACK, AsyncLiveSession, Event
from longlook_client._media import MediaStats
from longlook_client._options import QuestionOptions, SessionOptions
from longlook_client._portal import Held, Portal
from longlook_client._session import AsyncSession, Progress
from longlook_client._types import (
    AnswerResult,
    Clip,
    Delta,
    Frame,
    Health,
    MediaReceipt,
    Mode,
    Model,
    Pace,
    SessionInfo,
    Source,
)


class Client:
    """As :class:`AsyncClient`, blocking. May be used from several threads."""

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout: float = 30.0) -> None:
        self._portal = Portal()
        self._inner = AsyncClient(url, key, timeout=timeout)
        self.url = self._inner.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._portal.call(self._inner.aclose())
        self._portal.stop()

    def create_session(self, *, wait: float = 0.0, **options: Unpack[SessionOptions]) -> Session:
        """As :meth:`AsyncClient.create_session`."""
        return Session(self._portal, self._portal.call(self._inner.create_session(wait=wait, **options)))

    def session(self, session_id: str) -> Session:
        """A handle on a session opened earlier; nothing is sent."""
        return Session(self._portal, self._inner.session(session_id))

    def sessions(self) -> list[SessionInfo]:
        return self._portal.call(self._inner.sessions())

    def models(self) -> list[Model]:
        return self._portal.call(self._inner.models())

    def ready(self) -> bool:
        """Whether the server has its bus and at least one worker."""
        return self._portal.call(self._inner.ready())


class Session:
    """As :class:`AsyncSession`, blocking. As a context manager it closes the session at the end."""

    def __init__(self, portal: Portal, inner: AsyncSession) -> None:
        self._portal = portal
        self._inner = inner
        self.id = inner.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.call(self._inner.__aexit__(kind, error, trace))

    @property
    def info(self) -> SessionInfo | None:
        return self._inner.info

    def refresh(self) -> SessionInfo:
        return self._portal.call(self._inner.refresh())

    def health(self) -> Health:
        return self._portal.call(self._inner.health())

    def close(self) -> None:
        """Ends the session and frees its memory on the worker. A recording is kept for its time."""
        self._portal.call(self._inner.close())

    def delete(self) -> None:
        """Ends the session and erases all that there is of it, the recording too."""
        self._portal.call(self._inner.delete())

    def frame(self, at_ms: int | None = None, *, track: int | None = None, width: int | None = None) -> Frame:
        """As :meth:`AsyncSession.frame`."""
        return self._portal.call(self._inner.frame(at_ms, track=track, width=width))

    def clip(self, from_ms: int, to_ms: int, file: str | PathLike[str], *, track: int | None = None) -> Clip:
        """As :meth:`AsyncSession.clip`."""
        return self._portal.call(self._inner.clip(from_ms, to_ms, file, track=track))

    def texts(self, from_ms: int = 0, to_ms: int | None = None) -> list[dict[str, Any]]:
        """As :meth:`AsyncSession.texts`."""
        return self._portal.call(self._inner.texts(from_ms, to_ms))

    def upload(
        self,
        file: str | PathLike[str],
        *,
        at_ms: int | None = None,
        track: int | None = None,
        pace: Pace = "fast",
        wait: bool = False,
        content_type: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> MediaReceipt:
        """As :meth:`AsyncSession.upload`; ``progress`` is called on the client's own thread."""
        return self._portal.call(
            self._inner.upload(
                file,
                at_ms=at_ms,
                track=track,
                pace=pace,
                wait=wait,
                content_type=content_type,
                progress=progress,
                timeout=timeout,
            )
        )

    def add_source(self, name: str, url: str) -> Source:
        """Has the server pull a camera (``rtsp://``) or a file (``http://``) into this session."""
        return self._portal.call(self._inner.add_source(name, url))

    def sources(self) -> list[Source]:
        """The sources of this session and how they are."""
        return self._portal.call(self._inner.sources())

    def remove_source(self, name: str) -> None:
        self._portal.call(self._inner.remove_source(name))

    def ask(self, question: str, *, timeout: float = 120.0, **options: Unpack[QuestionOptions]) -> AnswerResult:
        """Asks and waits for the whole answer; :class:`AnswerError` when it failed."""
        return self._portal.call(self._inner.ask(question, timeout=timeout, **options))

    def stream(
        self, question: str, *, timeout: float = 120.0, **options: Unpack[QuestionOptions]
    ) -> Iterator[Delta | AnswerResult]:
        """Asks and yields the deltas as they come, the :class:`AnswerResult` last."""
        return self._portal.iterate(self._inner.stream(question, timeout=timeout, **options))

    def answer(self, question_id: str) -> AnswerResult:
        """The state of an earlier question; the server keeps it for ten minutes."""
        return self._portal.call(self._inner.answer(question_id))

    def cancel(self, question_id: str) -> None:
        self._portal.call(self._inner.cancel(question_id))

    def connect_token(self) -> str:
        """A new token for one connection to the live socket within a minute, such as a browser needs."""
        return self._portal.call(self._inner.connect_token())

    def live(self, *, reconnect_for: float = 60.0) -> LiveSession:
        """The live socket, to be entered with ``with``."""
        return LiveSession(self._portal, self._inner.live(reconnect_for=reconnect_for))


class LiveSession:
    """As :class:`AsyncLiveSession`, blocking."""

    def __init__(self, portal: Portal, inner: AsyncLiveSession) -> None:
        self._portal = portal
        self._inner = inner
        self._held: Held[AsyncLiveSession] | None = None
        self.session_id = inner.session_id

    def __enter__(self) -> Self:
        self._held = self._portal.hold(self._inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket; the session goes on without it until it is closed or found idle."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    @property
    def connected(self) -> bool:
        return self._inner.connected

    @property
    def reconnects(self) -> int:
        return self._inner.reconnects

    @property
    def stats(self) -> MediaStats:
        return self._inner.stats

    @property
    def health(self) -> Health | None:
        """The stream's health as last told, about once a second."""
        return self._inner.health

    def send_picture(self, picture: bytes, captured: float | None = None, *, track: int = VIDEO_TRACK) -> bool:
        """As :meth:`AsyncLiveSession.send_picture`."""
        return self._portal.call(self._inner.send_picture(picture, captured, track=track))

    def send_h264(self, access_unit: bytes, captured: float | None = None, *, track: int = VIDEO_TRACK) -> bool:
        """As :meth:`AsyncLiveSession.send_h264`."""
        return self._portal.call(self._inner.send_h264(access_unit, captured, track=track))

    def send_pcm(
        self,
        samples: bytes,
        captured: float | None = None,
        *,
        rate: int = 16000,
        channels: int = 1,
        track: int = AUDIO_TRACK,
    ) -> bool:
        """As :meth:`AsyncLiveSession.send_pcm`."""
        return self._portal.call(self._inner.send_pcm(samples, captured, rate=rate, channels=channels, track=track))

    def end_media(self, timeout: float | None = 60.0) -> None:
        """As :meth:`AsyncLiveSession.end_media`."""
        self._portal.call(self._inner.end_media(timeout))

    def ask(self, question: str, **options: Unpack[QuestionOptions]) -> Answer:
        """As :meth:`AsyncLiveSession.ask`."""
        return Answer(self._portal, self._portal.call(self._inner.ask(question, **options)))

    def events(self) -> Iterator[Event]:
        """As :meth:`AsyncLiveSession.events`: blocks until the next one, ends with the session."""
        return self._portal.iterate(self._inner.events())


class Answer:
    """As :class:`AsyncAnswer`, blocking: iterate it for the deltas, ``result()`` waits for the whole."""

    def __init__(self, portal: Portal, inner: AsyncAnswer) -> None:
        self._portal = portal
        self._inner = inner
        self.id = inner.id
        self.question = inner.question

    @property
    def as_of_ms(self) -> float | None:
        return self._inner.as_of_ms

    @property
    def mode(self) -> Mode | None:
        return self._inner.mode

    @property
    def text(self) -> str:
        """What has arrived so far."""
        return self._inner.text

    @property
    def done(self) -> bool:
        return self._inner.done

    def __iter__(self) -> Iterator[Delta]:
        return self._portal.iterate(aiter(self._inner))

    def result(self, timeout: float | None = 120.0) -> AnswerResult:
        """The whole answer; :class:`WaitTimeoutError` after ``timeout`` seconds."""
        return self._portal.call(self._inner.result(timeout))

    def cancel(self) -> None:
        self._portal.call(self._inner.cancel())
