"""REST: sessions opened, looked at, closed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from server.events import health_body, session_body
from server.gateway import Gateway
from server.routes.access import GatewayOf, Record, Tenant
from server.routes.schema import HEALTH_EXAMPLE, SESSION_EXAMPLE, TOKEN_EXAMPLE, SessionBody, shown

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.post("", status_code=201, responses=shown({**SESSION_EXAMPLE, **TOKEN_EXAMPLE}, "The session is open.", 201))
async def open_session(body: SessionBody, tenant: Tenant, gateway: GatewayOf) -> dict[str, Any]:
    """Open a session on a worker with room for it. 503 with Retry-After when there is none."""
    gateway.condition.check_room()
    record = await gateway.sessions.open(tenant, body.terms())
    card = await gateway.board.card(record.spec.model)
    return {**session_body(record, card), **await _connect_token(gateway, record.spec.session_id)}


@router.get("", responses=shown({"object": "list", "data": [SESSION_EXAMPLE]}, "Sessions of the key's tenant."))
async def list_sessions(tenant: Tenant, gateway: GatewayOf) -> dict[str, Any]:
    """The tenant's sessions, oldest first; closed ones for ten minutes."""
    records = await gateway.sessions.of_tenant(tenant)
    known = {card.name: card for card in gateway.board.models()}
    return {"object": "list", "data": [session_body(record, known.get(record.spec.model)) for record in records]}


@router.get("/{session_id}", responses=shown({**SESSION_EXAMPLE, "health": HEALTH_EXAMPLE}, "The session."))
async def get_session(record: Record, gateway: GatewayOf) -> dict[str, Any]:
    """A session and the health of its stream."""
    known = {card.name: card for card in gateway.board.models()}
    return {**session_body(record, known.get(record.spec.model)), "health": health_body(record)}


@router.delete("/{session_id}", status_code=204)
async def delete_session(session_id: str, tenant: Tenant, gateway: GatewayOf) -> Response:
    """Close a session and erase all that there is of it: media, questions, answers, and what is stored on disk."""
    await gateway.sessions.delete(tenant, session_id)
    return Response(status_code=204)


@router.post("/{session_id}/close", status_code=204)
async def close_session(record: Record, gateway: GatewayOf) -> Response:
    """Close a session: its memory is freed. What is stored of it stays for its time. Closing again is no error."""
    if not record.over:
        await gateway.sessions.close(record, "client")
    return Response(status_code=204)


@router.post("/{session_id}/connect", responses=shown(TOKEN_EXAMPLE, "A token for one socket."))
async def connect_session(record: Record, gateway: GatewayOf) -> dict[str, Any]:
    """A connect token: good once, for 60 s, for a socket of this session, or for what it said until it was closed."""
    return await _connect_token(gateway, record.spec.session_id)


async def _connect_token(gateway: Gateway, session_id: str) -> dict[str, Any]:
    life_s = gateway.settings.limits.connect_token_s
    token = await gateway.bus.tokens.issue(session_id, "connect", life_ms=life_s * 1000)
    return {"connect_token": token, "connect_token_expires_in": life_s}
