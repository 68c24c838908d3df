"""Errors as clients see them: one JSON shape for REST, sockets and event streams."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from protocol.errors import LonglookError

KINDS = {400: "invalid_request", 401: "authentication", 403: "permission", 404: "not_found", 409: "conflict"}
KINDS |= {410: "invalid_request", 413: "invalid_request", 415: "invalid_request", 429: "rate_limit"}


def error_body(error: LonglookError) -> dict[str, Any]:
    """``{"type", "code", "message", "param"}``."""
    kind = KINDS.get(error.status, "server")
    return {"type": f"{kind}_error", "code": error.code, "message": error.message, "param": error.param}


def error_headers(error: LonglookError) -> dict[str, str]:
    """Retry-After, in whole seconds, where trying again later makes sense."""
    if error.status not in (429, 503):
        return {}
    return {"retry-after": str(max(math.ceil(error.retry_after or 1.0), 1))}


def error_response(error: LonglookError) -> JSONResponse:
    return JSONResponse({"error": error_body(error)}, error.status, error_headers(error))


def error_event(error: LonglookError, **about: Any) -> dict[str, Any]:
    """An ``error`` event; ``about`` names what it is about: a chunk's track and sequence, or a question's id."""
    return {"type": "error", "error": error_body(error), **about}


def notice_event(code: str, message: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"type": "notice", "code": code, "message": message, "data": data}
