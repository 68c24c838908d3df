import pytest

from protocol import errors
from protocol.errors import LonglookError

pytestmark = pytest.mark.unit

STATUS = {
    "unauthorized": 401,
    "token_used": 401,
    "token_expired": 401,
    "forbidden_origin": 403,
    "forbidden_address": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_policy": 400,
    "bad_request": 400,
    "bad_header": 400,
    "bad_media": 400,
    "no_video": 400,
    "unsupported_media": 415,
    "too_large": 413,
    "question_too_long": 413,
    "conflict": 409,
    "session_closed": 410,
    "rate_limited": 429,
    "no_capacity": 503,
    "no_sandbox": 503,
    "starting": 503,
    "log_lost": 503,
    "worker_lost": 503,
    "quarantined": 500,
    "timeout": 504,
}


def all_errors() -> list[type[LonglookError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LonglookError)]
    return [error for error in found if error is not LonglookError]


def test_every_code_has_its_status() -> None:
    named = {error.code: error.status for error in all_errors() if error.code != "internal"}
    assert named == STATUS


def test_an_error_tells_when_to_try_again_and_what_was_wrong() -> None:
    error = errors.RateLimited("slow down", retry_after=2.5, param="fps")
    assert (str(error), error.message, error.retry_after, error.param) == ("slow down", "slow down", 2.5, "fps")


def test_the_bus_away_is_worth_another_try() -> None:
    assert errors.BusUnavailable("gone").retry_after == 1.0
    assert isinstance(errors.BusFull("full"), errors.BusUnavailable)
