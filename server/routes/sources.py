"""REST: cameras and files that the gateway pulls for a session."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from protocol.errors import NotFound
from protocol.sources import SourceSpec, SourceState
from server.routes.access import GatewayOf, Record, UsableRecord
from server.routes.schema import shown
from server.sources.targets import LONGEST, parse_target

router = APIRouter(prefix="/v1/sessions/{session_id}/sources", tags=["sources"])

NAME = r"^[A-Za-z0-9_.-]{1,64}$"
SourceName = Annotated[str, Path(max_length=64)]
EXAMPLE: dict[str, Any] = {
    "name": "front-door",
    "object": "source",
    "url": "rtsp://camera.lan/stream1",
    "track": 1000,
    "state": "live",
    "since": 1795417200.0,
    "error": None,
    "codecs": {"video": "h264"},
    "last_frame_age_ms": 66,
    "lag_ms": 12,
    "reconnects": 0,
}


class SourceBody(BaseModel):
    """What to pull."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"name": "front-door", "url": "rtsp://user:password@camera.lan/stream1"}]},
    )

    name: str = Field(pattern=NAME, description="unique in the session")
    url: str = Field(
        max_length=LONGEST, description="rtsp, rtsps, http or https, with user and password where they are needed"
    )


@router.post("", status_code=201, responses=shown(EXAMPLE, "The source is wanted; its state tells how it is.", 201))
async def add_source(body: SourceBody, record: UsableRecord, gateway: GatewayOf) -> dict[str, Any]:
    """Pull a camera or a file from now on. Adding the same again under its name is no error."""
    gateway.condition.check_open()
    spec = await gateway.wanted.add(record, body.name, body.url)
    return source_body(spec, SourceState(since=spec.created_at))


@router.get("", responses=shown({"object": "list", "data": [EXAMPLE]}, "The session's sources."))
async def list_sources(record: Record, gateway: GatewayOf) -> dict[str, Any]:
    """The session's sources and how each is, oldest first."""
    found = await gateway.wanted.of(record)
    return {"object": "list", "data": [source_body(spec, state) for spec, state in found]}


@router.get("/{name}", responses=shown(EXAMPLE, "The source."))
async def get_source(name: SourceName, record: Record, gateway: GatewayOf) -> dict[str, Any]:
    """One source and how it is."""
    for spec, state in await gateway.wanted.of(record):
        if spec.name == name:
            return source_body(spec, state)
    raise NotFound("the session has no source of this name")


@router.delete("/{name}", status_code=204)
async def remove_source(name: SourceName, record: Record, gateway: GatewayOf) -> Response:
    """Pull it no more."""
    await gateway.wanted.remove(record, name)
    return Response(status_code=204)


def source_body(spec: SourceSpec, state: SourceState) -> dict[str, Any]:
    """The ``source`` object; its URL is without what is secret in it."""
    age_ms = round(max(time.time() - state.last_unit_at, 0.0) * 1000) if state.last_unit_at else None
    return {
        "name": spec.name,
        "object": "source",
        "url": parse_target(spec.url).shown,
        "track": spec.track,
        "state": state.state,
        "since": state.since,
        "error": state.error or None,
        "codecs": state.codecs,
        "last_frame_age_ms": age_ms,
        "lag_ms": state.lag_ms,
        "reconnects": state.reconnects,
    }
