"""A session's folder: numbered segments of records, and beside each sealed one its index.

``000007.seg`` holds records as they came; ``000007.idx``, written once when the segment is sealed, holds its extents
(as the head of its one record) and every record's place. A segment without an index, the one being written or one that
a crash left, is walked through instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from server.journal.entries import (
    Entry,
    Extent,
    Head,
    decode_entries,
    decode_extents,
    decode_head,
    encode,
    extents_of,
)
from server.journal.records import SealedFile, SealedReader
from server.journal.vault import SessionKey

SEGMENT, INDEX = ".seg", ".idx"
NUMBER = "{:06d}"


class OpenSegment:
    """The segment that a session's records go to. Blocking; every method but ``aged`` raises OSError."""

    def __init__(self, folder: Path, key: SessionKey) -> None:
        """Raises FileNotFoundError where the session's folder is gone."""
        self._key = key
        self._entries: list[Entry] = []
        self._begun_at = time.monotonic()
        self._path, descriptor = _claim(folder)
        try:
            self._file = SealedFile(descriptor, key, self._path.name)
        except OSError:
            os.close(descriptor)
            raise

    @property
    def size(self) -> int:
        return self._file.size

    @property
    def linked(self) -> bool:
        return self._file.linked

    def age_s(self) -> float:
        return time.monotonic() - self._begun_at

    def append(self, records: Sequence[tuple[Head, bytes]]) -> None:
        slots = self._file.append((encode(head), body) for head, body in records)
        self._entries += [Entry(head, slot) for (head, _), slot in zip(records, slots, strict=True)]

    def seal(self) -> None:
        """Close the segment and write its index; without room for one, the segment is walked through when read."""
        self._file.close()
        with suppress(OSError):
            if self._path.exists():
                _write_index(self._path, self._key, self._entries)


class Segment:
    """A segment as a reader sees it, sealed or not."""

    def __init__(self, path: Path, key: SessionKey) -> None:
        self.path = path
        self._key = key
        self._entries: list[Entry] | None = None

    def extents(self) -> list[Extent]:
        """Raises OSError."""
        try:
            with SealedReader(self._index, self._key, self._index.name) as index:
                for _, head in index.heads():
                    return decode_extents(head)
        except (OSError, ValueError, msgspec.MsgspecError):
            pass
        return extents_of(self.entries())

    def entries(self) -> list[Entry]:
        """Raises OSError."""
        if self._entries is None:
            self._entries = self._indexed() or self._walked()
        return self._entries

    def bodies(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """The entries' bodies; what is damaged is left out. Raises OSError."""
        with SealedReader(self.path, self._key, self.path.name) as reader:
            for entry in entries:
                with suppress(ValueError):
                    yield entry, reader.body(entry.slot)

    @property
    def _index(self) -> Path:
        return self.path.with_suffix(INDEX)

    def _indexed(self) -> list[Entry] | None:
        try:
            with SealedReader(self._index, self._key, self._index.name) as index:
                for slot, _ in index.heads():
                    return decode_entries(index.body(slot))
        except (OSError, ValueError, msgspec.MsgspecError):
            pass
        return None

    def _walked(self) -> list[Entry]:
        with SealedReader(self.path, self._key, self.path.name) as reader:
            return [Entry(decode_head(head), slot) for slot, head in reader.heads()]


def segments(folder: Path, key: SessionKey) -> list[Segment]:
    """Oldest first; none where the folder is gone."""
    return [Segment(path, key) for path in segment_paths(folder)]


def segment_paths(folder: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(folder) if name.endswith(SEGMENT)]
        return sorted(folder / name for name in names if name.removesuffix(SEGMENT).isdecimal())
    except FileNotFoundError:
        return []


def remove(path: Path) -> None:
    """Remove a segment and its index. Raises OSError."""
    path.with_suffix(INDEX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _claim(folder: Path) -> tuple[Path, int]:
    """A new file under the next number, which no other gateway has."""
    numbers = [int(path.stem) for path in segment_paths(folder)]
    number = max(numbers, default=0) + 1
    while True:
        path = folder / f"{NUMBER.format(number)}{SEGMENT}"
        try:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            number += 1


def _write_index(path: Path, key: SessionKey, entries: list[Entry]) -> None:
    index = path.with_suffix(INDEX)
    descriptor = os.open(index, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        SealedFile(descriptor, key, index.name).append([(encode(extents_of(entries)), encode(entries))])
    finally:
        os.close(descriptor)
