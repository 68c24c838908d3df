"""Writes the journal: one batch after the other, each session's records into its open segment."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from msgspec.structs import replace

from server.journal.custodian import Custodian, QuotaFull
from server.journal.entries import Head, Kind
from server.journal.keyframes import begins
from server.journal.segments import OpenSegment
from server.journal.vault import SessionKey
from server.settings import JournalSettings

RETRY_S = 60.0  # a session whose writing failed is tried again
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Record:
    """A record on its way to the disk."""

    key: SessionKey
    head: Head
    body: bytes


@dataclass(frozen=True)
class Report:
    """What became of a session's records in a batch; ``trouble`` is empty where they were written.

    ``trouble`` is ``disk_full``, ``quota``, ``erased`` or ``failed``.
    """

    session_id: str
    written: int = 0
    bytes: int = 0
    lost: int = 0
    trouble: str = ""


class Scribe:
    """Blocking; calls from several threads take turns."""

    def __init__(self, custodian: Custodian, settings: JournalSettings) -> None:
        self._custodian = custodian
        self._settings = settings
        self._open: dict[str, OpenSegment] = {}
        self._stopped: dict[str, tuple[float, str]] = {}
        self._preambles: dict[str, dict[int, Record]] = {}
        self._lock = threading.Lock()

    def write(self, batch: Iterable[Record]) -> list[Report]:
        """Write a batch; a session's trouble is its own."""
        sorted_out: dict[str, list[Record]] = {}
        for record in batch:
            sorted_out.setdefault(record.key.session_id, []).append(record)
        with self._lock:
            return [self._write(session_id, records) for session_id, records in sorted_out.items()]

    def rest(self) -> None:
        """Seal the segments that are old enough: what retention removes is whole segments."""
        with self._lock:
            for session_id, segment in list(self._open.items()):
                if segment.age_s() >= self._settings.segment_s:
                    self._seal(session_id)

    def erase(self, session_id: str) -> bool:
        """Destroy a session's key and data; False where nothing was recorded. Raises OSError."""
        with self._lock:
            self._forget(session_id)
            return self._custodian.erase(session_id)

    def finish(self, session_id: str) -> None:
        """Seal what a session wrote: for now nobody writes more."""
        with self._lock:
            self._forget(session_id)

    def close(self) -> None:
        """Seal everything."""
        with self._lock:
            for session_id in list(self._open):
                self._forget(session_id)

    def _write(self, session_id: str, records: list[Record]) -> Report:
        preambles = self._preambles.setdefault(session_id, {})
        preambles |= {record.head.track: record for record in records if record.head.kind is Kind.PREAMBLE}
        until, trouble = self._stopped.get(session_id, (0.0, ""))
        if time.monotonic() < until:
            return Report(session_id, lost=len(records), trouble=trouble)
        try:
            segment = self._segment(records[0].key)
            before = segment.size
            segment.append([(_marked(record), record.body) for record in records])
            written = segment.size - before
            if segment.size >= self._settings.segment_bytes or segment.age_s() >= self._settings.segment_s:
                self._seal(session_id)
        except OSError as error:
            trouble = _trouble(error)
            self._stopped[session_id] = (time.monotonic() + RETRY_S, trouble)
            self._seal(session_id)
            return Report(session_id, lost=len(records), trouble=trouble)
        self._stopped.pop(session_id, None)
        return Report(session_id, written=len(records), bytes=written)

    def _segment(self, key: SessionKey) -> OpenSegment:
        session_id = key.session_id
        segment = self._open.get(session_id)
        if segment is not None and not segment.linked:
            self._seal(session_id)  # removed by another gateway: for its age, or with the whole session
            segment = None
        if segment is None:
            self._custodian.make_room(key.tenant, self._settings.segment_bytes)
            segment = self._open[session_id] = OpenSegment(self._custodian.folder(session_id), key)
            segment.append([(record.head, record.body) for record in self._preambles[session_id].values()])
        return segment

    def _forget(self, session_id: str) -> None:
        self._seal(session_id)
        self._stopped.pop(session_id, None)
        self._preambles.pop(session_id, None)

    def _seal(self, session_id: str) -> None:
        segment = self._open.pop(session_id, None)
        if segment is not None:
            with suppress(OSError):
                segment.seal()


def _marked(record: Record) -> Head:
    """The head, with the places marked where decoding may begin."""
    head = record.head
    if head.kind is Kind.MEDIA and begins(head.codec, record.body):
        return replace(head, key=True)
    return head


def _trouble(error: OSError) -> str:
    if isinstance(error, QuotaFull):
        return "quota"
    if isinstance(error, FileNotFoundError):
        return "erased"
    return "disk_full" if error.errno in FULL else "failed"
