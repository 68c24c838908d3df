"""The bounded queue between a gateway's sessions and the journal's writer: it never makes anybody wait."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from server.journal.scribe import Record

DEPTH = 16_384
BATCH_BYTES = 8 << 20


class Backlog:
    """What does not fit is dropped, and counted for each session."""

    def __init__(self, max_bytes: int, depth: int = DEPTH) -> None:
        self._records: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self._max_bytes = max_bytes
        self._max_depth = depth
        self.bytes = 0
        self._dropped: Counter[str] = Counter()

    @property
    def depth(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> bool:
        """Take a record; False where it was dropped."""
        if len(self._records) >= self._max_depth or self.bytes + len(record.body) > self._max_bytes:
            self._dropped[record.key.session_id] += 1
            self._arrived.set()
            return False
        self._records.append(record)
        self.bytes += len(record.body)
        self._arrived.set()
        return True

    async def wait(self, limit_s: float) -> None:
        """Until there is something to write or to report, but no longer than ``limit_s``."""
        try:
            async with asyncio.timeout(limit_s):
                await self._arrived.wait()
        except TimeoutError:
            return

    def take(self) -> list[Record]:
        """The oldest records, a batch of them at most."""
        batch: list[Record] = []
        size = 0
        while self._records and size < BATCH_BYTES:
            record = self._records.popleft()
            batch.append(record)
            size += len(record.body)
        self.bytes -= size
        if not self._records:
            self._arrived.clear()
        return batch

    def forget(self, session_id: str) -> None:
        """Drop what waits of a session that is being erased."""
        self._records = deque(record for record in self._records if record.key.session_id != session_id)
        self.bytes = sum(len(record.body) for record in self._records)
        del self._dropped[session_id]

    def dropped(self) -> dict[str, int]:
        """Records dropped since this was asked last, by session."""
        dropped, self._dropped = dict(self._dropped), Counter()
        return dropped
