import io
import json
import logging
from collections.abc import Iterator

import pytest

from protocol.logs import JsonLines, configure_logs

pytestmark = pytest.mark.unit


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream that all logs go to while the test runs."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("worker", "debug", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_ids(stream: io.StringIO) -> None:
    logging.getLogger("workers.worker").info("two\nlines %s", "ü", extra={"session_id": "s_1", "epoch": 2})
    (line,) = lines(stream)
    assert line.pop("time")
    assert line == {
        "level": "info",
        "role": "worker",
        "logger": "workers.worker",
        "message": "two\nlines ü",
        "session_id": "s_1",
        "epoch": 2,
    }


def test_fields_that_are_not_let_in_stay_out(stream: io.StringIO) -> None:
    logging.getLogger("server").info("asked", extra={"question": "who is in the room?", "token": "ct_x"})
    assert "who is" not in stream.getvalue()
    assert "ct_x" not in stream.getvalue()


def test_an_exception_is_part_of_the_line(stream: io.StringIO) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("server").exception("failed")
    (line,) = lines(stream)
    assert "RuntimeError: broken" in str(line["exception"])


def test_libraries_that_log_addresses_are_silent(stream: io.StringIO) -> None:
    logging.getLogger("httpx").info("GET /v1/live?token=ct_x")
    assert stream.getvalue() == ""


def test_what_json_cannot_hold_is_told_as_text() -> None:
    record = logging.makeLogRecord({"msg": "at", "levelname": "INFO", "name": "x", "path": object})
    assert "class 'object'" in json.loads(JsonLines("test").format(record))["path"]
