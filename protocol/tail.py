"""Following many streams at once: one blocking XREAD on a connection of its own.

Waiting costs nothing and wakes at once; the reader's own wake stream is always among those followed, so that it can be
told from outside that the set of streams has changed. Cursors are the reader's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol import keys
from protocol.connection import Connection
from protocol.ids import START, EntryId
from protocol.scripts import WAKE

WAKE_LIFE_MS = 60_000


@dataclass(frozen=True)
class Entry:
    """``appended_ms``: the server's milliseconds at which it was appended, 0 where it does not say."""

    id: EntryId
    payload: bytes
    appended_ms: int = 0


class Tail:
    """A reader of streams. ``read`` belongs to one task; ``wake`` may be called from any."""

    def __init__(self, url: str, shared: Connection, reader_id: str, *, block_ms: int = 1000) -> None:
        self._blocking = Connection(url, timeout=block_ms / 1000 + 2.0, retries=1, pool=1)
        self._shared = shared
        self._wake = keys.wake(reader_id)
        self._woken = START
        self._block_ms = block_ms

    async def read(self, positions: Mapping[str, EntryId], *, count: int = 64) -> dict[str, list[Entry]]:
        """Entries after each key's position, at most ``count`` of each, oldest first; waits up to the block time.

        Returns an empty mapping after the block time or a wake. Raises BusUnavailable.
        """
        names = [*positions, self._wake]
        after = [*map(str, positions.values()), str(self._woken)]
        reply = await self._blocking.command(
            "XREAD", "COUNT", count, "BLOCK", self._block_ms, "STREAMS", *names, *after
        )
        found: dict[str, list[Entry]] = {}
        for name, entries in reply or ():
            parsed = [Entry(EntryId.parse(id), fields[b"m"], int(fields.get(b"a", b"0"))) for id, fields in entries]
            if name.decode() == self._wake:
                self._woken = parsed[-1].id
            else:
                found[name.decode()] = parsed
        return found

    async def wake(self) -> None:
        """Makes a ``read`` that is waiting, or else the next one, return at once."""
        await self._shared.run(WAKE, [self._wake], str(self._woken), WAKE_LIFE_MS)

    async def aclose(self) -> None:
        await self._blocking.aclose()
