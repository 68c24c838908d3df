"""The errors that cross a boundary: each has a code that clients see, and the HTTP status that fits it."""

from __future__ import annotations

from typing import ClassVar


class LonglookError(Exception):
    """Base of all typed errors. ``message`` is for people and never holds content or keys."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.param = param


class Unauthorized(LonglookError):
    code = "unauthorized"
    status = 401


class TokenUsed(Unauthorized):
    code = "token_used"


class TokenExpired(Unauthorized):
    code = "token_expired"


class ForbiddenOrigin(LonglookError):
    code = "forbidden_origin"
    status = 403


class ForbiddenAddress(LonglookError):
    """A source's address is none that this gateway may connect to."""

    code = "forbidden_address"
    status = 403


class NotFound(LonglookError):
    """An unknown session or question, or one of another tenant: the two look alike from outside."""

    code = "not_found"
    status = 404


class UnknownModel(LonglookError):
    code = "unknown_model"
    status = 404


class BadRequest(LonglookError):
    code = "bad_request"
    status = 400


class UnknownPolicy(BadRequest):
    code = "unknown_policy"


class BadHeader(BadRequest):
    code = "bad_header"


class BadMedia(BadRequest):
    code = "bad_media"


class NoVideo(BadRequest):
    code = "no_video"


class UnsupportedMedia(LonglookError):
    code = "unsupported_media"
    status = 415


class TooLarge(LonglookError):
    code = "too_large"
    status = 413


class QuestionTooLong(TooLarge):
    code = "question_too_long"


class Conflict(LonglookError):
    """A question id used twice, or an idempotency key used with another body."""

    code = "conflict"
    status = 409


class SessionClosed(LonglookError):
    code = "session_closed"
    status = 410


class RateLimited(LonglookError):
    code = "rate_limited"
    status = 429


class NoCapacity(LonglookError):
    code = "no_capacity"
    status = 503


class NoSandbox(LonglookError):
    """Media is refused: decoder processes cannot be confined on the gateway's machine."""

    code = "no_sandbox"
    status = 503


class Starting(LonglookError):
    """No worker has advertised yet."""

    code = "starting"
    status = 503


class WorkerLost(LonglookError):
    code = "worker_lost"
    status = 503


class Quarantined(LonglookError):
    """The session ended its worker's engine several times in a row: it is closed, for the others' sake."""

    code = "quarantined"
    status = 500


class TimedOut(LonglookError):
    code = "timeout"
    status = 504


class BusUnavailable(LonglookError):
    """Redis cannot be reached or does not answer in time; nothing is known about the command's effect."""

    status = 503

    def __init__(self, message: str, *, retry_after: float | None = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class BusFull(BusUnavailable):
    """Redis has reached its memory limit and takes no more writes for now."""

    code = "no_capacity"


class LogLost(LonglookError):
    """Redis answers, but it is another server or has lost its data: every session of before is gone."""

    code = "log_lost"
    status = 503


class Replaced(LonglookError):
    """A newer publisher feeds the session's media lanes; this one must stop."""

    code = "conflict"
    status = 409


class LaneFull(LonglookError):
    """A lane that must not drop holds all the unread bytes that it may; append again when the reader has moved on."""

    code = "rate_limited"
    status = 429


class LeaseLost(LonglookError):
    """Another worker owns the session, or the session is gone: drop it without writing another word for it."""

    code = "worker_lost"
    status = 503
