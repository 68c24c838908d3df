from __future__ import annotations

import json

import pytest

import longlook_client as client
from longlook_client._errors import named_error, response_error

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("unauthorized", client.AuthenticationError),
        ("token_used", client.AuthenticationError),
        ("token_expired", client.AuthenticationError),
        ("forbidden_address", client.ForbiddenError),
        ("forbidden_origin", client.ForbiddenError),
        ("not_found", client.NotFoundError),
        ("unknown_model", client.NotFoundError),
        ("unknown_policy", client.BadRequestError),
        ("bad_request", client.BadRequestError),
        ("bad_header", client.BadRequestError),
        ("bad_media", client.BadRequestError),
        ("no_video", client.BadRequestError),
        ("unsupported_media", client.BadRequestError),
        ("too_large", client.TooLargeError),
        ("question_too_long", client.TooLargeError),
        ("conflict", client.ConflictError),
        ("no_capacity", client.UnavailableError),
        ("starting", client.UnavailableError),
        ("rate_limited", client.UnavailableError),
        ("session_closed", client.SessionClosedError),
        ("worker_lost", client.AnswerError),
        ("log_lost", client.AnswerError),
        ("timeout", client.ServerError),
        ("internal", client.ServerError),
    ],
)
def test_code_names_the_class(code: str, kind: type[client.ServerError]) -> None:
    error = named_error({"code": code, "message": "why"})
    assert type(error) is kind
    assert (error.code, error.message) == (code, "why")


def test_unknown_code_goes_by_status() -> None:
    assert type(named_error({"code": "new_thing"}, status=404)) is client.NotFoundError
    assert type(named_error({"code": "new_thing"}, status=500)) is client.ServerError


def test_response_error_carries_what_the_server_said() -> None:
    body = json.dumps({"error": {"type": "t", "code": "no_capacity", "message": "full", "param": "model"}}).encode()
    error = response_error(503, {"retry-after": "2.5", "x-request-id": "r"}, body)
    assert isinstance(error, client.UnavailableError)
    assert (error.status, error.param, error.request_id, error.retry_after) == (503, "model", "r", 2.5)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "text"}', b'{"detail": 1}'])
def test_a_stranger_is_told_apart(body: bytes) -> None:
    assert isinstance(response_error(502, {}, body), client.ProtocolError)
