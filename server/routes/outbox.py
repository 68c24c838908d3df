"""What is still to be sent on one socket: bounded, and ended by one close."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

DEPTH = 2_048
CHARS = 8_000_000


class CloseCode(IntEnum):
    """Why a live socket ends (RFC 6455 section 7.4, and our own from 4400 on)."""

    NORMAL = 1000
    BAD_MESSAGE = 1007
    INTERNAL = 1011
    SLOW = 4408
    REPLACED = 4409
    SESSION_CLOSED = 4410


@dataclass(frozen=True)
class Farewell:
    """How a socket is closed."""

    code: CloseCode
    reason: str


class Outbox:
    """Events in order, then one farewell. Nothing is taken after that."""

    def __init__(self, depth: int = DEPTH) -> None:
        self._events: deque[str] = deque()
        self._chars = 0
        self._farewell: Farewell | None = None
        self._changed = asyncio.Event()
        self._depth = depth

    def __len__(self) -> int:
        return len(self._events)

    @property
    def ending(self) -> bool:
        return self._farewell is not None

    def put(self, event: Mapping[str, Any]) -> None:
        """Queue an event. A client that leaves ``depth`` of them unread, or 8 million characters, is cut off."""
        if self._farewell is not None:
            return
        text = json.dumps(event, ensure_ascii=False)
        self._chars += len(text)
        if len(self._events) >= self._depth or self._chars > CHARS:
            self._events.clear()
            self.close(CloseCode.SLOW, "the client does not read")
            return
        self._events.append(text)
        self._changed.set()

    def close(self, code: CloseCode, reason: str) -> None:
        """End the socket once all that is queued was sent. The first farewell counts."""
        if self._farewell is None:
            self._farewell = Farewell(code, reason)
            self._changed.set()

    async def next(self) -> str | Farewell:
        """The next event as JSON text, at last the farewell."""
        while not self._events:
            if self._farewell is not None:
                return self._farewell
            self._changed.clear()
            await self._changed.wait()
        text = self._events.popleft()
        self._chars -= len(text)
        return text
