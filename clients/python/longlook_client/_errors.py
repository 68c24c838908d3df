"""What can go wrong, as types: one exception class for each family of the server's error codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final


class LonglookError(Exception):
    """Base of every error that this package raises on purpose."""


class ConnectError(LonglookError):
    """The server cannot be reached, or the connection was lost and did not come back in time."""


class ProtocolError(LonglookError):
    """The other side sent something that is not of the contract: most likely it is not a Longlook server."""


class WaitTimeoutError(LonglookError, TimeoutError):
    """A wait asked for by the caller reached its limit; the session and its answers go on."""


class ServerError(LonglookError):
    """An error that the server named. ``code`` is stable; ``message`` is for people."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.status = status
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class AuthenticationError(ServerError):
    """No key, a wrong key, or a token that was used or has expired."""


class ForbiddenError(ServerError):
    """The key is right but this may not be done with it."""


class NotFoundError(ServerError):
    """No such session, model, question or media: or it belongs to somebody else."""


class BadRequestError(ServerError):
    """The request, header or media is not what the contract asks for."""


class TooLargeError(BadRequestError):
    """A message, file, picture or question is over the server's limit."""


class ConflictError(ServerError):
    """An id was used again for something else."""


class UnavailableError(ServerError):
    """No room or no worker at the moment; ``retry_after`` says in how many seconds to try again."""


class SessionClosedError(ServerError):
    """The session has ended."""


class AnswerError(ServerError):
    """The question was accepted, but its answer failed."""


_BY_CODE: Final[Mapping[str, type[ServerError]]] = {
    "unauthorized": AuthenticationError,
    "token_used": AuthenticationError,
    "token_expired": AuthenticationError,
    "forbidden_address": ForbiddenError,
    "forbidden_origin": ForbiddenError,
    "not_found": NotFoundError,
    "unknown_model": NotFoundError,
    "unknown_policy": BadRequestError,
    "bad_request": BadRequestError,
    "bad_header": BadRequestError,
    "bad_media": BadRequestError,
    "no_video": BadRequestError,
    "unsupported_media": BadRequestError,
    "too_large": TooLargeError,
    "question_too_long": TooLargeError,
    "conflict": ConflictError,
    "no_capacity": UnavailableError,
    "starting": UnavailableError,
    "rate_limited": UnavailableError,
    "session_closed": SessionClosedError,
    "worker_lost": AnswerError,
    "log_lost": AnswerError,
    "timeout": ServerError,
    "internal": ServerError,
}
_BY_STATUS: Final[Mapping[int, type[ServerError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: SessionClosedError,
    413: TooLargeError,
    415: BadRequestError,
    422: BadRequestError,
    429: UnavailableError,
    503: UnavailableError,
}


def named_error(error: Mapping[str, Any], *, status: int | None = None, **details: Any) -> ServerError:
    """The exception for the inside of an ``error`` object."""
    code = str(error.get("code") or "internal")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status or 0, ServerError)
    return kind(code, str(error.get("message") or code), status=status, param=error.get("param"), **details)


def response_error(status: int, headers: Mapping[str, str], body: bytes) -> LonglookError:
    """The exception for a refused HTTP request or a refused WebSocket handshake."""
    try:
        error = json.loads(body)["error"]
        retry_after = float(headers["retry-after"]) if "retry-after" in headers else None
        return named_error(error, status=status, request_id=headers.get("x-request-id"), retry_after=retry_after)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ProtocolError(f"HTTP {status} without the error object of a Longlook server")
