"""The package's public names are what ``__all__`` says, and all that lives in its private modules for users."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import longlook_client

pytestmark = pytest.mark.unit

PUBLIC = """
Answer AnswerError AnswerResult AsyncAnswer AsyncClient AsyncLiveSession AsyncSession AuthenticationError
BadRequestError Client Clip ConflictError ConnectError Connection Delta Event ForbiddenError Frame FrameShape Health
LiveSession
LonglookError MediaReceipt MediaStats Memory Model NotFoundError Notice ProtocolError QuestionOptions ServerError
Session SessionClosedError SessionInfo SessionOptions SessionSettings Source Timing TooLargeError UnavailableError Usage
WaitTimeoutError
""".split()


def test_exported_names_are_the_promised_ones() -> None:
    assert sorted(longlook_client.__all__) == sorted(PUBLIC)
    assert all(hasattr(longlook_client, name) for name in PUBLIC)


def test_every_error_is_exported() -> None:
    errors = {
        name
        for module in pkgutil.iter_modules(longlook_client.__path__, "longlook_client.")
        for name, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        if issubclass(value, longlook_client.LonglookError)
    }
    assert errors <= set(longlook_client.__all__)


def test_nothing_of_the_server_is_imported() -> None:
    for module in pkgutil.iter_modules(longlook_client.__path__, "longlook_client."):
        source = inspect.getsource(importlib.import_module(module.name))
        assert not any(
            f"import {room}" in source or f"from {room}" in source for room in ("server", "protocol", "workers")
        )
