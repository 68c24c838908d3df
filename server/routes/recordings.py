"""REST: what is stored of a session, as frames, clips and texts. Times are session time in milliseconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, Query, Response
from starlette.types import Message, Receive, Scope, Send

from protocol import ids
from protocol.errors import BadRequest, LonglookError, NoCapacity, NotFound
from server.journal.entries import Extent, Kind, Said
from server.journal.export import Clip, Exporter
from server.journal.recording import Recording
from server.routes.access import GatewayOf, Tenant
from server.routes.schema import RECORDING_EXAMPLE, TEXT_EXAMPLE, shown
from server.terms import LATEST_MS

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
router = APIRouter(prefix="/v1", tags=["recordings"])

KINDS = {Kind.MEDIA: "media", Kind.FRAME: "frames", Kind.TEXT: "texts"}
NARROWEST, WIDEST = 16, 4_096


async def recording_of(session_id: str, tenant: Tenant, gateway: GatewayOf) -> Recording:
    """What is stored of the session in the path, open or long over. Raises NotFound."""
    if not ids.is_session_id(session_id):
        raise NotFound("nothing of this session is stored")
    return await gateway.journal.recording(tenant, session_id)


RecordingOf = Annotated[Recording, Depends(recording_of)]
Moment = Annotated[int, Query(ge=0, le=LATEST_MS)]
TrackNumber = Annotated[int | None, Query(ge=0, le=65_535)]


@router.get("/recordings", responses=shown({"object": "list", "data": []}, "Recordings of the key's tenant."))
async def list_recordings(tenant: Tenant, gateway: GatewayOf) -> dict[str, Any]:
    """The tenant's recordings, oldest first, those of sessions that are over among them."""
    wards = await gateway.journal.recordings(tenant)
    data = [
        {"session": ward.session_id, "created_at": ward.created_at, "retention_hours": ward.retention_hours}
        for ward in sorted(wards, key=lambda ward: ward.created_at)
    ]
    return {"object": "list", "data": data}


@router.get("/sessions/{session_id}/recording", responses=shown(RECORDING_EXAMPLE, "What is stored."))
async def get_recording(recording: RecordingOf) -> dict[str, Any]:
    """What is stored of a session: of each kind, track and codec the time it spans."""
    extents = await _read(recording.extents)
    return {
        "object": "recording",
        "session": recording.key.session_id,
        "created_at": recording.key.created_at,
        "retention_hours": recording.key.retention_hours,
        "bytes": sum(extent.bytes for extent in extents),
        "holds": [_extent(extent) for extent in extents],
    }


@router.get(
    "/sessions/{session_id}/frames",
    response_class=Response,
    responses={200: {"description": "The frame.", "content": {"image/jpeg": {}}}},
)
async def get_frame(
    recording: RecordingOf,
    gateway: GatewayOf,
    at: Annotated[int, Query(ge=0, le=LATEST_MS, description="session time; default: the newest")] = LATEST_MS,
    track: TrackNumber = None,
    width: Annotated[int | None, Query(ge=NARROWEST, le=WIDEST, description="smaller: a thumbnail")] = None,
) -> Response:
    """The newest sampled frame at or before a moment, as JPEG. Its time is in ``x-session-time-ms``."""
    frame = await _read(recording.frame, at, track)
    if frame is None:
        raise NotFound("no frame at or before this moment is stored")
    jpeg = frame.body
    if width is not None:
        jpeg = await Exporter(gateway.nursery, gateway.settings).thumbnail(jpeg, width)
    headers = {"x-session-time-ms": str(frame.head.t_ms), "x-track": str(frame.head.track)}
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.get("/sessions/{session_id}/texts", responses=shown({"object": "list", "data": [TEXT_EXAMPLE]}, "The texts."))
async def get_texts(
    recording: RecordingOf,
    from_ms: Annotated[int, Query(alias="from", ge=0, le=LATEST_MS)] = 0,
    to_ms: Annotated[int, Query(alias="to", ge=0, le=LATEST_MS)] = LATEST_MS,
) -> dict[str, Any]:
    """Questions and answers about a span, in the order in which they came."""
    return {"object": "list", "data": [_text(t, said) for t, said in await _read(recording.texts, from_ms, to_ms)]}


@router.get(
    "/sessions/{session_id}/clips",
    response_class=Response,
    responses={200: {"description": "The clip.", "content": {"video/mp4": {}}}},
)
async def get_clip(
    recording: RecordingOf,
    tenant: Tenant,
    gateway: GatewayOf,
    from_ms: Annotated[int, Query(alias="from", ge=0, le=LATEST_MS)],
    to_ms: Annotated[int, Query(alias="to", ge=0, le=LATEST_MS)],
    track: TrackNumber = None,
) -> Response:
    """A span as MP4. Recorded video begins at the key frame before it, and ``x-clip-start-ms`` says where that is."""
    longest = gateway.settings.journal.clip_s
    if not 0 < to_ms - from_ms <= longest * 1000:
        raise BadRequest(f"a clip is longer than nothing, and at most {longest:.0f} s", param="to")
    with ExitStack() as held:
        held.enter_context(gateway.exports.hold(tenant, gateway.settings.limits.exports))
        try:
            clip = await Exporter(gateway.nursery, gateway.settings).clip(recording, track, from_ms, to_ms)
        except OSError as error:
            raise unreadable() from error
        name = f"{recording.key.session_id}-{from_ms}.mp4"
        return ClipResponse(clip, name, held.pop_all(), gateway.settings.limits.send_s)


class ClipResponse(Response):
    """Sends a clip while it is made. A client that does not take it in time, or a recording that turns out to be
    damaged, ends the connection before the response is complete.
    """

    def __init__(self, clip: Clip, name: str, held: ExitStack, send_s: float) -> None:
        headers = {
            "x-clip-start-ms": str(clip.start_ms),
            "x-clip-source": clip.source,
            "content-disposition": f'attachment; filename="{name}"',
        }
        super().__init__(media_type="video/mp4", headers=headers)
        del self.headers["content-length"]
        self._clip = clip
        self._held = held
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for piece in self._clip.pieces():
                    await self._say(send, {"type": "http.response.body", "body": piece, "more_body": True})
                await self._say(send, {"type": "http.response.body", "body": b""})
            except (LonglookError, OSError, TimeoutError) as error:
                logger.warning("a clip ended early: %s", type(error).__name__)
            finally:
                await self._clip.close()

    async def _say(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._send_s):
            await send(message)


async def _read(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """What a thread reads from the journal. Raises NoCapacity."""
    try:
        return await asyncio.to_thread(work, *args, **options)
    except OSError as error:
        raise unreadable() from error


def unreadable() -> NoCapacity:
    return NoCapacity("the journal cannot be read", retry_after=10.0)


def _extent(extent: Extent) -> dict[str, Any]:
    return {
        "kind": KINDS[extent.kind],
        "track": extent.track,
        "codec": extent.codec or None,
        "from_ms": extent.first_ms,
        "to_ms": extent.last_ms,
        "records": extent.records,
        "bytes": extent.bytes,
    }


def _text(t_ms: int, said: Said) -> dict[str, Any]:
    return {
        "kind": said.by,
        "question": said.question_id,
        "at_ms": t_ms,
        "said_at": said.at,
        "text": said.text,
        "finish_reason": said.finish_reason or None,
        "error": said.error or None,
    }
