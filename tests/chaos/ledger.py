"""What the bus holds, read past the product: sound without holes, and nothing that stays for ever."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from protocol import keys
from protocol.codec import decode_lane
from protocol.connection import Connection
from protocol.errors import BusUnavailable
from protocol.messages import Sound
from tests.faults.leaks import lasting_keys

READ_S = 0.5
BYTES_PER_MS = 32
Span = tuple[int, int]
# What may be left of closed sessions, each with its expiry: their records, their last words and their answers.
OF_CLOSED_SESSIONS = re.compile(
    r"ll:\{(s_[0-9a-f]{24})\}:(session|output|questions|question:[^{}]+|token:[0-9a-f]{32}|idempotency:[0-9a-f]{32})"
)
OF_NO_SESSION = re.compile(r"ll:\{(log|workers|wake:[^{}]+|tenant:[0-9a-f]{32}|rate:[^{}]+)\}.*|ll:\{log\}")


class SoundLedger:
    """Follows the audio lanes of sessions, from before their first sound, and notes which times lie in them."""

    def __init__(self, connection: Connection, session_ids: Sequence[str]) -> None:
        self._connection = connection
        self._spans: dict[str, list[Span]] = {session_id: [] for session_id in session_ids}
        self._cursors = dict.fromkeys(session_ids, b"-")

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_S)

    async def read(self) -> None:
        """Reads what has come since the last time; while the bus is away nothing."""
        for session_id, spans in self._spans.items():
            with suppress(BusUnavailable):
                lane = keys.lane(session_id, "audio")
                entries = await self._connection.command("XRANGE", lane, self._cursors[session_id], "+")
                for entry_id, fields in entries:
                    self._cursors[session_id] = b"(" + entry_id
                    sound = decode_lane("audio", fields[b"m"])
                    assert isinstance(sound, Sound)
                    spans.append((sound.t_ms, sound.t_ms + len(sound.pcm) // BYTES_PER_MS))

    def holes(self, session_id: str, until_ms: int, reported: Sequence[Span]) -> list[Span]:
        """Times before ``until_ms`` that lie neither in the lane nor in what was reported as lost."""
        found: list[Span] = []
        reached = 0
        for start, end in sorted([*self._spans[session_id], *reported]):
            if start > reached and reached < until_ms:
                found.append((reached, min(start, until_ms)))
            reached = max(reached, end)
        return [*found, (reached, until_ms)] if reached < until_ms else found

    def repeated_ms(self, session_id: str) -> int:
        """Milliseconds that lie in the lane more than once."""
        spans = self._spans[session_id]
        covered, reached = 0, 0
        for start, end in sorted(spans):
            covered += max(0, end - max(start, reached))
            reached = max(reached, end)
        return sum(end - start for start, end in spans) - covered


async def leftovers(connection: Connection, session_ids: Sequence[str]) -> list[str]:
    """Keys that should not be there once these sessions, all that there were, are closed."""
    found = [f"{name.decode()} never expires" for name in await lasting_keys(connection)]
    for name in map(bytes.decode, await connection.command("KEYS", "*")):
        of_session = OF_CLOSED_SESSIONS.fullmatch(name)
        if of_session is None and OF_NO_SESSION.fullmatch(name) is None:
            found.append(f"{name} is left")
        elif of_session is not None and of_session[1] not in session_ids:
            found.append(f"{name} is of no session")
    return found + await _still_placed(connection, session_ids)


async def _still_placed(connection: Connection, session_ids: Sequence[str]) -> list[str]:
    """Closed sessions for which room is held, or for which an owner is looked for."""
    found: list[str] = []
    for name in await connection.command("KEYS", "ll:{workers}:owned:*"):
        listed: Mapping[bytes, object] = dict.fromkeys(await connection.command("ZRANGE", name, 0, -1))
        found += [f"{session_id} is still owned" for session_id in session_ids if session_id.encode() in listed]
    return found
