"""REST: pictures, sound and whole video files."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
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
    ingest = await gateway.sessions.feed(record)
    taken: dict[str, Any] = {"accepted": True, "media_id": f"m_{secrets.token_hex(6)}"}
    if kind.startswith("video/") or kind == "application/octet-stream":
        pace = pace or ("fast" if record.spec.ingest == "complete" else "realtime")
        return {**taken, "kind": "file", **await _file(request, record, gateway, ingest, at_ms, track, pace, wait)}
    if kind.startswith("image/"):
        data = await _body(request, gateway, record)
        codec = sniff_still(data)
        if codec is None:
            raise UnsupportedMedia("pictures are accepted as JPEG, PNG and WebP")
        posted = await ingest.post_picture(codec, data, track, at_ms, wait=wait)
        return {**taken, "kind": "picture", **await _settled(posted, {"frames": 1, "duration_ms": 0})}
    if kind in SOUND_TYPES:
        rate, channels = _sound_form(parameters)
        data = await _body(request, gateway, record)
        posted = await ingest.post_sound(data, rate, channels, track, at_ms, wait=wait)
        length = 1000 * len(data) // (2 * channels * rate)
        return {**taken, "kind": "sound", **await _settled(posted, {"frames": 0, "duration_ms": length})}
    raise UnsupportedMedia("send image/jpeg, image/png, image/webp, video/*, application/octet-stream or audio/pcm")


async def _settled(posted: Posted, brought: dict[str, int]) -> dict[str, Any]:
    if posted.settled is None:
        return {"start_ms": posted.t_ms}
    await posted.settled
    return {"start_ms": posted.t_ms, **brought}


async def _file(
    request: Request,
    record: SessionRecord,
    gateway: Gateway,
    ingest: Ingest,
    at_ms: int | None,
    track: int,
    pace: Pace,
    wait: bool,
) -> dict[str, Any]:
    limits = gateway.settings.limits
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limits.file_bytes:
        raise TooLarge(f"a file has at most {limits.file_bytes} bytes")
    with ExitStack() as held:
        held.enter_context(gateway.uploads.hold(record.spec.tenant, limits.uploads))
        held.enter_context(ingest.reading_file())
        spool = Spool(gateway.settings.spool_dir, limits.file_bytes)
        held.callback(spool.close)
        await spool.fill(_paced(request, gateway, record))
        feed = FileFeed(ingest, gateway.nursery, limits)
        try:
            await feed.open(spool)
            start_ms = ingest.place(track, at_ms, time.time())
        except BaseException:
            await feed.close()
            raise
        reading = _read(gateway, record, ingest, feed, start_ms, track, pace, held.pop_all())
        task = gateway.background.start(reading)
    if not wait:
        return {"start_ms": start_ms}
    outcome = await asyncio.shield(task)
    if isinstance(outcome, LonglookError):
        raise outcome
    brought = {"frames": outcome.frames, "duration_ms": outcome.duration_ms, "damaged": outcome.damaged}
    return {"start_ms": start_ms, **brought}


async def _read(
    gateway: Gateway,
    record: SessionRecord,
    ingest: Ingest,
    feed: FileFeed,
    start_ms: int,
    track: int,
    pace: Pace,
    held: ExitStack,
) -> Summary | LonglookError:
    """Lead the file to the lanes and say that it is at its end; an error is told, and returned, never raised."""
    with held:
        try:
            summary = await feed.run(start_ms, track, pace)
            await gateway.sessions.end_media(record)
            return summary
        except LonglookError as error:
            ingest.tell(error_event(error, track=track))
            return error
        except Exception:
            logger.exception("a file could not be read", extra={"session_id": record.spec.session_id})
            return LonglookError("the file could not be read")
        finally:
            await feed.close()


async def _body(request: Request, gateway: Gateway, record: SessionRecord) -> bytes:
    limit = gateway.settings.limits.message_bytes
    pieces: list[bytes] = []
    size = 0
    async for piece in _pieces(request):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"a picture or a piece of sound has at most {limit} bytes")
        pieces.append(piece)
    if not size:
        raise BadRequest("the body is empty")
    gateway.media.charge(record.spec.tenant, gateway.settings.limits.bytes_per_s, size)
    return b"".join(pieces)


async def _paced(request: Request, gateway: Gateway, record: SessionRecord) -> AsyncIterator[bytes]:
    """The body as it comes, no faster than its tenant may send."""
    async for piece in _pieces(request):
        await gateway.media.pace(record.spec.tenant, gateway.settings.limits.bytes_per_s, len(piece))
        yield piece


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
