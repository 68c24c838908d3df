"""Server-sent events, and the messages that both they and the WebSocket carry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from longlook_client._errors import AnswerError, ProtocolError
from longlook_client._types import AnswerResult, Delta, Json


async def parse_events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of an event stream; an event's ``event`` and ``id`` fill in ``type`` and ``event_id``."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if "data" in fields:
                yield _message(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value


def _message(fields: dict[str, str]) -> dict[str, Any]:
    message = parse_message(fields["data"])
    message.setdefault("type", fields.get("event", "message"))
    if "id" in fields:
        message.setdefault("event_id", fields["id"])
    return message


def parse_message(text: str | bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError as error:
        raise ProtocolError("an event is not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("an event is not a JSON object")
    return message


def answer_error(error: Json) -> AnswerError:
    code = str(error.get("code") or "internal")
    return AnswerError(code, str(error.get("message") or code))


class DeltaFilter:
    """Lets each token through once: what a resumed stream repeats is dropped."""

    def __init__(self) -> None:
        self._next = 0

    def fresh(self, delta: Delta) -> bool:
        if delta.index < self._next:
            return False
        self._next = delta.index + max(1, len(delta.token_ids))
        return True


def finished(message: Json, question: str = "") -> AnswerResult:
    """The result that an ``answer.done`` event carries."""
    cancelled = message.get("finish_reason") == "cancelled"
    status = "cancelled" if cancelled else "done"
    return AnswerResult.from_json({"question": question, **message, "status": message.get("status") or status})
