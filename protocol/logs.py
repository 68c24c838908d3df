"""Logs: one JSON object a line, with the ids of session and request. Content and keys have no place in them.

Modules log through ``logging.getLogger(__name__)`` and give ids as ``extra={"session_id": ...}``; fields that are not
in ``FIELDS`` are left out, so that nothing slips in by accident.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

FIELDS = frozenset(
    {
        "address",
        "client",
        "code",
        "count",
        "duration_ms",
        "epoch",
        "event",
        "exit_status",
        "generation",
        "lost_ms",
        "media_id",
        "method",
        "model",
        "path",
        "process_name",
        "question_id",
        "reason",
        "request_id",
        "seconds",
        "session_id",
        "source",
        "state",
        "status",
        "tenant",
        "track",
        "worker_id",
    }
)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, process role, message, and the fields let in."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in record.__dict__.items() if name in FIELDS and name not in line})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logs(role: str, level: str = "INFO", stream: IO[str] | None = None) -> None:
    """Sends the whole process's logs to ``stream`` (standard error) as JSON lines. Call once, in ``main``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(role))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpcore", "httpx"):  # they write whole addresses
        logging.getLogger(chatty).setLevel(logging.WARNING)
