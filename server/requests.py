"""Around every REST request: an id, a log line without content or keys, metrics, and limits on its body."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics
from server.settings import Limits

logger = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # clients may send any word
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
MEDIA_SUFFIX = "/media"  # the one route with large bodies; it limits them itself


def new_request_id() -> str:
    return f"r_{secrets.token_hex(8)}"


class RequestLog:
    """Gives each request an id (``x-request-id``), and says in one line how it went."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        begun, status = time.monotonic(), 500

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        finally:
            self._note(scope, request_id, status, time.monotonic() - begun)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        handler = getattr(scope.get("route"), "path", "page")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.http_requests.labels(handler, method, str(status)).inc()
        self._metrics.http_duration.labels(handler).observe(seconds)
        level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
        fields = {
            "request_id": request_id,
            "method": method,
            "path": handler,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
        }
        if session_id := scope.get("path_params", {}).get("session_id"):
            fields["session_id"] = session_id
        logger.log(level, "request", extra=fields)


class BodyLimit:
    """Refuses bodies that are too large or too slow, before they are parsed."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = None if scope["path"].endswith(MEDIA_SUFFIX) else self._limits.control_bytes
        stated = Headers(scope=scope).get("content-length", "")
        taken = 0
        whole = False

        async def limited() -> Message:
            nonlocal taken, whole
            if limit is not None and stated.isdigit() and int(stated) > limit:
                raise HTTPException(413, f"a JSON body has at most {limit} bytes")
            if whole:
                return await receive()  # waits for the client to go away
            try:
                async with asyncio.timeout(self._limits.body_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if limit is not None and taken > limit:
                raise HTTPException(413, f"a JSON body has at most {limit} bytes")
            return message

        await self._app(scope, limited, send)
