"""REST: pictures, sound and whole video files."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect

from protocol.errors import BadRequest, LonglookError, TooLarge, UnsupportedMedia
from protocol.sessions import SessionRecord
from server.faults import error_event
from server.gateway import Gateway
from server.media.headers import sniff_still
from server.media.ingest import Ingest, Posted
from server.media.uploads import FileFeed, Pace, Spool, Summary
from server.routes.access import GatewayOf, UsableRecord
from server.routes.schema import MEDIA_EXAMPLE, shown
from server.terms import LATEST_MS

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["media"])

SOUND_TYPES = ("audio/l16", "audio/pcm")
BODIES = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("image/jpeg", "image/png", "image/webp", "video/mp4", "video/webm", "audio/pcm;rate=16000;channels=1")
}


@router.post(
    "/media",
    status_code=202,
    responses=shown(MEDIA_EXAMPLE, "Taken; with `wait`, what it brought.", 202),
    openapi_extra={"requestBody": {"required": True, "content": BODIES}},
)
async def append(
    request: Request,
    record: UsableRecord,
    gateway: GatewayOf,
    at_ms: Annotated[int | None, Query(ge=0, le=LATEST_MS, description="session time; default: now")] = None,
    track: Annotated[int, Query(ge=0, le=65_535)] = 0,
    pace: Annotated[Pace | None, Query(description="of a file; default: fast if the session is complete")] = None,
    wait: Annotated[bool, Query(description="answer when it is all in the session's lanes")] = False,
) -> dict[str, Any]:
    """Append one picture, a piece of s16le sound, or a whole video file, by the body's content type."""
    gateway.media.check_paid(record.spec.tenant, gateway.settings.limits.bytes_per_s)
    kind, parameters = _content_type(request.headers.get("content-type", ""))
    upload = Upload(request, gateway, record, await gateway.sessions.feed(record), track, at_ms, wait)
    taken = {"accepted": True, "media_id": f"m_{secrets.token_hex(6)}"}
    if kind.startswith("video/") or kind == "application/octet-stream":
        pace = pace or ("fast" if record.spec.ingest == "complete" else "realtime")
        return {**taken, "kind": "file", **await upload.file(pace)}
    if kind.startswith("image/"):
        return {**taken, "kind": "picture", **await upload.picture()}
    if kind in SOUND_TYPES:
        return {**taken, "kind": "sound", **await upload.sound(*_sound_form(parameters))}
    raise UnsupportedMedia("send image/jpeg, image/png, image/webp, video/*, application/octet-stream or audio/pcm")


@dataclass(frozen=True)
class Upload:
    """One request's media on their way in. Each verb returns what the answer says of them; with ``wait``, once they are
    in the session's lanes.
    """

    request: Request
    gateway: Gateway
    record: SessionRecord
    ingest: Ingest
    track: int
    at_ms: int | None  # session time; None: after the newest media
    wait: bool

    async def picture(self) -> dict[str, int]:
        """Raises UnsupportedMedia, TooLarge, BadMedia, BadRequest."""
        data = await self._body()
        codec = sniff_still(data)
        if codec is None:
            raise UnsupportedMedia("pictures are accepted as JPEG, PNG and WebP")
        posted = await self.ingest.post_picture(codec, data, self.track, self.at_ms, wait=self.wait)
        return await _settled(posted, {"frames": 1, "duration_ms": 0})

    async def sound(self, rate: int, channels: int) -> dict[str, int]:
        """``rate`` in samples a second. Raises TooLarge, BadMedia, BadRequest."""
        data = await self._body()
        posted = await self.ingest.post_sound(data, rate, channels, self.track, self.at_ms, wait=self.wait)
        return await _settled(posted, {"frames": 0, "duration_ms": 1000 * len(data) // (2 * channels * rate)})

    async def file(self, pace: Pace) -> dict[str, int]:
        """Raises TooLarge, UnsupportedMedia, NoVideo, BadMedia, Conflict, RateLimited, BadRequest."""
        limits = self.gateway.settings.limits
        stated = self.request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limits.file_bytes:
            raise TooLarge(f"a file has at most {limits.file_bytes} bytes")
        with ExitStack() as held:
            held.enter_context(self.gateway.uploads.hold(self.record.spec.tenant, limits.uploads))
            held.enter_context(self.ingest.reading_file())
            spool = Spool(self.gateway.settings.spool_dir, limits.file_bytes)
            held.callback(spool.close)
            await spool.fill(self._paced())
            feed = FileFeed(self.ingest, self.gateway.nursery, limits)
            try:
                await feed.open(spool)
                start_ms = self.ingest.place(self.track, self.at_ms, time.time())
            except BaseException:
                await feed.close()
                raise
            task = self.gateway.background.start(self._read(feed, start_ms, pace, held.pop_all()))
        if not self.wait:
            return {"start_ms": start_ms}
        outcome = await asyncio.shield(task)
        if isinstance(outcome, LonglookError):
            raise outcome
        brought = {"frames": outcome.frames, "duration_ms": outcome.duration_ms, "damaged": outcome.damaged}
        return {"start_ms": start_ms, **brought}

    async def _read(self, feed: FileFeed, start_ms: int, pace: Pace, held: ExitStack) -> Summary | LonglookError:
        """Lead the file to the lanes and say that it is at its end; an error is told, and returned, never raised."""
        with held:
            try:
                summary = await feed.run(start_ms, self.track, pace)
                await self.gateway.sessions.end_media(self.record)
                return summary
            except LonglookError as error:
                self.ingest.tell(error_event(error, track=self.track))
                return error
            except Exception:
                logger.exception("a file could not be read", extra={"session_id": self.record.spec.session_id})
                return LonglookError("the file could not be read")
            finally:
                await feed.close()

    async def _body(self) -> bytes:
        limits = self.gateway.settings.limits
        pieces: list[bytes] = []
        size = 0
        async for piece in _pieces(self.request):
            size += len(piece)
            if size > limits.message_bytes:
                raise TooLarge(f"a picture or a piece of sound has at most {limits.message_bytes} bytes")
            pieces.append(piece)
        if not size:
            raise BadRequest("the body is empty")
        self.gateway.media.charge(self.record.spec.tenant, limits.bytes_per_s, size)
        return b"".join(pieces)

    async def _paced(self) -> AsyncIterator[bytes]:
        """The body as it comes, no faster than its tenant may send."""
        rate = self.gateway.settings.limits.bytes_per_s
        async for piece in _pieces(self.request):
            await self.gateway.media.pace(self.record.spec.tenant, rate, len(piece))
            yield piece


async def _settled(posted: Posted, brought: dict[str, int]) -> dict[str, int]:
    if posted.settled is None:
        return {"start_ms": posted.t_ms}
    await posted.settled
    return {"start_ms": posted.t_ms, **brought}


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise BadRequest("the client went away before the body was complete") from None


def _content_type(text: str) -> tuple[str, dict[str, str]]:
    kind, *parts = text.split(";")
    pairs = (part.partition("=") for part in parts)
    return kind.strip().lower(), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _sound_form(parameters: dict[str, str]) -> tuple[int, int]:
    try:
        return int(parameters.get("rate", "16000")), int(parameters.get("channels", "1"))
    except ValueError:
        raise BadRequest("rate and channels are whole numbers", param="content-type") from None
