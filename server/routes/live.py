"""The live socket's door: refused before the handshake is answered, or served to its end."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Query, WebSocket

from protocol import ids
from protocol.errors import LonglookError, Unauthorized
from protocol.sessions import SessionRecord
from server.auth import bearer
from server.faults import error_response
from server.gateway import Gateway
from server.limits import check_origin
from server.requests import new_request_id
from server.routes.dialogue import Dialogue
from server.routes.streams import last_event

logger = logging.getLogger(__name__)
router = APIRouter()


@router.websocket("/v1/live")
async def live(
    websocket: WebSocket,
    session: Annotated[str, Query()] = "",
    token: Annotated[str | None, Query()] = None,
    last_event_id: Annotated[str | None, Query()] = None,
    origin: Annotated[str | None, Header()] = None,
    host: Annotated[str | None, Header()] = None,
) -> None:
    """Serve a session's socket. A refusal is an HTTP response with an error body."""
    gateway: Gateway = websocket.app.state.gateway
    with ExitStack() as held:
        try:
            check_origin(origin, host, gateway.settings.origins)
            gateway.condition.check_open()
            after = last_event(last_event_id)
            record, resumed = await _admit(gateway, websocket, session, token)
            if after is None:  # whoever comes back for what was missed finds it in a session that is over, too
                record.check_usable()
            held.enter_context(gateway.sockets.hold(record.spec.tenant, gateway.settings.limits.sockets))
            await Dialogue(websocket, gateway, record, resumed=resumed).run(after)
        except LonglookError as error:
            request_id = new_request_id()
            logger.info("live socket refused", extra={"code": error.code, "request_id": request_id})
            refusal = error_response(error)
            refusal.headers["x-request-id"] = request_id
            await websocket.send_denial_response(refusal)


async def _admit(
    gateway: Gateway, websocket: WebSocket, session_id: str, token: str | None
) -> tuple[SessionRecord, bool]:
    """The session that the token, or else the API key, lets in, and whether it is taken up again.

    Raises:
        Unauthorized, TokenUsed, TokenExpired, NotFound
    """
    if token is None:
        headers = websocket.headers
        tenant = gateway.keyring.tenant_of(bearer(headers.get("authorization"), headers.get("x-api-key")))
        return await gateway.sessions.get(tenant, session_id), False
    if not ids.is_session_id(session_id) or len(token) > 256:
        raise Unauthorized("unknown token")
    kind = await gateway.bus.tokens.consume(session_id, token)
    return await gateway.bus.sessions.get(session_id), kind == "resume"
