"""Connect and resume tokens: random, stored as a digest, good for one use."""

from __future__ import annotations

import secrets
from typing import Literal

from protocol import keys
from protocol.connection import Connection
from protocol.errors import TokenExpired, TokenUsed, Unauthorized
from protocol.scripts import CONSUME, ISSUE

TokenKind = Literal["connect", "resume"]

REMEMBERED_MS = 600_000  # how long a used or expired token can be told from one that never was


class Tokens:
    """Connect and resume tokens, each good once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def issue(self, session_id: str, kind: TokenKind, *, life_ms: int) -> str:
        """A new token of the session, as the client is to send it. Connect tokens live 60 s."""
        secret = f"{kind[0]}t_{secrets.token_urlsafe(24)}"
        key = keys.token(session_id, secret)
        await self._connection.run(ISSUE, [key], kind, life_ms, life_ms + REMEMBERED_MS)
        return secret

    async def consume(self, session_id: str, token: str) -> TokenKind:
        """Uses a token up. Raises TokenUsed, TokenExpired, Unauthorized (never issued for this session)."""
        reply = await self._connection.run(CONSUME, [keys.token(session_id, token)], secrets.token_hex(8))
        if reply[0] == b"used":
            raise TokenUsed("this token was used before")
        if reply[0] == b"expired":
            raise TokenExpired("this token has expired")
        if reply[0] != b"ok":
            raise Unauthorized("unknown token")
        return "resume" if reply[1] == b"resume" else "connect"
