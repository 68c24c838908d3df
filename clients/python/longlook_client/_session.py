"""A session over REST: its state, its media, its questions, and the way to its live socket."""

# ruff: noqa: ASYNC109 - a client library takes its limits as parameters

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, Unpack

from longlook_client._errors import ConnectError, NotFoundError, SessionClosedError, WaitTimeoutError
from longlook_client._events import DeltaFilter, answer_error, finished, parse_events
from longlook_client._live import AsyncLiveSession
from longlook_client._options import QuestionOptions
from longlook_client._transport import RETRY_PAUSES, Transport
from longlook_client._types import AnswerResult, Clip, Delta, Frame, Health, MediaReceipt, Pace, SessionInfo, Source

UPLOAD_PIECE_BYTES: Final = 256 * 1024
POLL_SECONDS: Final = 0.25

Progress = Callable[[int, int], None]


class AsyncSession:
    """One session on the server. As an async context manager it closes the session at the end."""

    def __init__(self, transport: Transport, session_id: str, info: SessionInfo | None = None) -> None:
        self.id = session_id
        self.info = info
        self._transport = transport
        self._path = f"/v1/sessions/{session_id}"
        self._token = info.connect_token if info else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except (NotFoundError, SessionClosedError):
            pass
        except ConnectError:
            if error is None:
                raise

    async def refresh(self) -> SessionInfo:
        """Reads the session's state anew into :attr:`info`."""
        self.info = SessionInfo.from_json(await self._transport.json("GET", self._path))
        return self.info

    async def health(self) -> Health:
        return (await self.refresh()).health or Health()

    async def close(self) -> None:
        """Ends the session and frees its memory on the worker. A recording is kept for its time."""
        if self.info is not None and not self.info.stored:
            await self.delete()
        else:
            await self._transport.json("POST", f"{self._path}/close")

    async def delete(self) -> None:
        """Ends the session and erases all that there is of it, the recording too."""
        await self._transport.json("DELETE", self._path)

    # --- recordings ---

    async def frame(self, at_ms: int | None = None, *, track: int | None = None, width: int | None = None) -> Frame:
        """The newest recorded frame at or before ``at_ms``, by default of all; ``width`` makes a thumbnail."""
        params = {"at": at_ms, "track": track, "width": width}
        async with self._transport.download(f"{self._path}/frames", params) as response:
            headers = response.headers
            return Frame(await response.aread(), int(headers["x-session-time-ms"]), int(headers["x-track"]))

    async def clip(self, from_ms: int, to_ms: int, file: str | PathLike[str], *, track: int | None = None) -> Clip:
        """Saves a recorded span as MP4. It may begin at the key frame before ``from_ms``: see ``start_ms``."""
        params = {"from": from_ms, "to": to_ms, "track": track}
        async with self._transport.download(f"{self._path}/clips", params) as response:
            size = await _save(response.aiter_bytes(), Path(file))
            source: Any = response.headers["x-clip-source"]
            return Clip(int(response.headers["x-clip-start-ms"]), source, size)

    async def texts(self, from_ms: int = 0, to_ms: int | None = None) -> list[dict[str, Any]]:
        """Recorded questions and answers about a span, as docs/protocol.md describes them."""
        params = {"from": from_ms} if to_ms is None else {"from": from_ms, "to": to_ms}
        return list((await self._transport.json("GET", f"{self._path}/texts", params=params))["data"])

    # --- media ---

    async def upload(
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
        """Uploads a video file (or one picture) as media of this session.

        ``pace`` says whether the server plays it in real time or as fast as the session takes it; with ``wait`` the
        call returns when all of it has been taken in. ``progress(sent, total)`` is called with bytes. ``timeout``
        (seconds; ``None``: no limit) bounds each wait for the server.
        """
        path = Path(file)
        total = (await asyncio.to_thread(path.stat)).st_size
        parameters = {"at_ms": at_ms, "track": track, "pace": pace, "wait": str(wait).lower()}
        reply = await self._transport.json(
            "POST",
            f"{self._path}/media",
            repeatable=False,
            params={name: value for name, value in parameters.items() if value is not None},
            headers={"Content-Type": content_type or _content_type(path), "Content-Length": str(total)},
            content=_pieces(path, total, progress),
            timeout=timeout,
        )
        return MediaReceipt.from_json(reply)

    # --- sources ---

    async def add_source(self, name: str, url: str) -> Source:
        """Has the server pull a camera (``rtsp://``) or a file (``http://``) into this session."""
        return Source.from_json(
            await self._transport.json("POST", f"{self._path}/sources", json={"name": name, "url": url})
        )

    async def sources(self) -> list[Source]:
        """The sources of this session and how they are."""
        return [
            Source.from_json(entry) for entry in (await self._transport.json("GET", f"{self._path}/sources"))["data"]
        ]

    async def remove_source(self, name: str) -> None:
        await self._transport.json("DELETE", f"{self._path}/sources/{name}")

    # --- questions ---

    async def ask(
        self,
        question: str,
        *,
        timeout: float = 120.0,
        **options: Unpack[QuestionOptions],
    ) -> AnswerResult:
        """Asks and waits for the whole answer; :class:`AnswerError` when it failed. Safe to repeat under the same
        id."""
        body = _question_body(question, options)
        reply = await self._transport.json(
            "POST", f"{self._path}/questions", json=body, headers={"Idempotency-Key": body["id"]}, timeout=timeout
        )
        try:
            async with asyncio.timeout(timeout):
                while reply.get("status") == "running":
                    await asyncio.sleep(POLL_SECONDS)
                    reply = await self._transport.json("GET", f"{self._path}/questions/{body['id']}")
        except TimeoutError as error:
            raise WaitTimeoutError(f"no answer within {timeout} s") from error
        if reply.get("status") == "failed":
            raise answer_error(reply.get("error") or {})
        return AnswerResult.from_json(reply)

    async def stream(
        self,
        question: str,
        *,
        timeout: float = 120.0,
        **options: Unpack[QuestionOptions],
    ) -> AsyncIterator[Delta | AnswerResult]:
        """Asks and yields the deltas as they come, the :class:`AnswerResult` last; takes up a broken stream again."""
        body = _question_body(question, options)
        body["stream"] = True
        fresh = DeltaFilter().fresh
        for pause in (*RETRY_PAUSES, None):
            try:
                async for item in self._answer_events(body, timeout):
                    if isinstance(item, AnswerResult):
                        yield item
                        return
                    if fresh(item):
                        yield item
                raise ConnectError("the answer's stream ended before the answer did")
            except ConnectError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _answer_events(self, body: dict[str, Any], timeout: float) -> AsyncIterator[Delta | AnswerResult]:
        headers = {"Idempotency-Key": body["id"], "Accept": "text/event-stream"}
        path = f"{self._path}/questions"
        async with self._transport.events("POST", path, headers, json=body, timeout=timeout) as lines:
            async for message in parse_events(lines):
                match message["type"]:
                    case "answer.delta":
                        yield Delta.from_json(message)
                    case "answer.done":
                        yield finished(message, body["question"])
                        return
                    case "answer.failed" | "error":
                        raise answer_error(message.get("error") or {})

    async def answer(self, question_id: str) -> AnswerResult:
        """The state of an earlier question; the server keeps it for ten minutes."""
        return AnswerResult.from_json(await self._transport.json("GET", f"{self._path}/questions/{question_id}"))

    async def cancel(self, question_id: str) -> None:
        await self._transport.json("DELETE", f"{self._path}/questions/{question_id}")

    # --- live ---

    async def connect_token(self) -> str:
        """A new token for one connection to the live socket within a minute, such as a browser needs."""
        return str((await self._transport.json("POST", f"{self._path}/connect"))["connect_token"])

    def live(self, *, reconnect_for: float = 60.0) -> AsyncLiveSession:
        """The live socket, to be entered with ``async with``. Reconnects for up to ``reconnect_for`` seconds a time."""
        token, self._token = self._token, None
        return AsyncLiveSession(
            self._transport.url,
            self.id,
            token=token,
            new_token=self.connect_token,
            reconnect_for=reconnect_for,
        )


def _question_body(question: str, options: QuestionOptions) -> dict[str, Any]:
    return {"id": f"q_{uuid.uuid4().hex}", "question": question, **options}


PICTURE_TYPES: Final[Mapping[str, str]] = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


def _content_type(path: Path) -> str:
    return PICTURE_TYPES.get(path.suffix.lower(), "application/octet-stream")


async def _save(pieces: AsyncIterator[bytes], path: Path) -> int:
    file = await asyncio.to_thread(path.open, "wb")
    try:
        async for piece in pieces:
            await asyncio.to_thread(file.write, piece)
        return file.tell()
    finally:
        await asyncio.to_thread(file.close)


async def _pieces(path: Path, total: int, progress: Progress | None) -> AsyncIterator[bytes]:
    sent = 0
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, UPLOAD_PIECE_BYTES):
            yield piece
            sent += len(piece)
            if progress is not None:
                progress(sent, total)
    finally:
        await asyncio.to_thread(file.close)
