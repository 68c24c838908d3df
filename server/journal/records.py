"""Files of sealed records: appended to, read anywhere, and readable up to where a crash cut them off.

A file is a magic number and a salt, then records. Each is a prefix with two sizes, a sealed head and a sealed body, so
that heads can be walked through without reading bodies. AES-GCM with a key per file; nonces count the file's parts (the
construction is STREAM's: Hoang, Reyhanitabar, Rogaway, Vizar, "Online authenticated encryption", 2015), so a record
cannot be moved, and a file is never appended to again after it was closed or a write failed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.journal.folders import write_all
from server.journal.vault import SessionKey

MAGIC = b"LLJ1"
SALT_BYTES = 16
START = len(MAGIC) + SALT_BYTES
PREFIX = struct.Struct("!II")  # bytes of the sealed head, bytes of the sealed body
TAG_BYTES = 16
HEAD_BYTES = 64 << 10  # more than any head has
GLANCE_BYTES = 192  # prefix and head of nearly every record, in one read


class Slot(NamedTuple):
    """Where a record lies: its number in the file, the offset of its prefix, the sizes of its sealed parts."""

    number: int
    offset: int
    head_bytes: int
    body_bytes: int


class SealedFile:
    """A file being written. After an OSError it takes no more: what it holds up to there can be read."""

    def __init__(self, descriptor: int, key: SessionKey, purpose: str) -> None:
        salt = os.urandom(SALT_BYTES)
        self._descriptor = descriptor
        self._cipher = key.cipher(salt, purpose)
        self._number = 0
        self.broken = False
        self._write(MAGIC + salt)
        self.size = START

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> list[Slot]:
        """Seal and write records of a head and a body, all at once. Raises OSError."""
        pieces: list[bytes] = []
        slots: list[Slot] = []
        end = self.size
        for head, body in records:
            slot = Slot(self._number, end, len(head) + TAG_BYTES, len(body) + TAG_BYTES)
            prefix = PREFIX.pack(slot.head_bytes, slot.body_bytes)
            pieces += [prefix, *_sealed(self._cipher, slot.number, prefix, head, body)]
            slots.append(slot)
            self._number += 1
            end = _end(slot)
        self._write(b"".join(pieces))
        self.size = end
        return slots

    @property
    def linked(self) -> bool:
        """Whether the file still has a name: it may have been erased while it was open."""
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        """Make it durable and let it go. Raises OSError."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        if self.broken:
            raise OSError("the file takes no more after a failed write")
        try:
            write_all(self._descriptor, data)
        except OSError:
            self.broken = True  # these nonces are spent
            raise


class SealedReader:
    """A file being read; it may still be growing, or have been cut short."""

    def __init__(self, path: Path, key: SessionKey, purpose: str) -> None:
        """Raises OSError, ValueError (not a file of sealed records)."""
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            start = os.pread(self._descriptor, START, 0)
            if len(start) < START or not start.startswith(MAGIC):
                raise ValueError("not a file of sealed records")
        except BaseException:
            os.close(self._descriptor)
            raise
        self._cipher = key.cipher(start[len(MAGIC) :], purpose)
        self.damaged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def heads(self) -> Iterator[tuple[Slot, bytes]]:
        """Every whole record's place and head, in order. What was damaged is counted and passed over, and a record
        that a crash tore ends the file.
        """
        size = os.fstat(self._descriptor).st_size
        number, offset = 0, START
        while True:
            glance = os.pread(self._descriptor, GLANCE_BYTES, offset)
            if len(glance) < PREFIX.size:
                return
            slot = Slot(number, offset, *PREFIX.unpack_from(glance))
            if not TAG_BYTES < slot.head_bytes <= HEAD_BYTES or slot.body_bytes < TAG_BYTES or _end(slot) > size:
                return
            sealed = glance[PREFIX.size : PREFIX.size + slot.head_bytes]
            if len(sealed) < slot.head_bytes:
                sealed = os.pread(self._descriptor, slot.head_bytes, offset + PREFIX.size)
            try:
                yield slot, self._open(slot, 0, sealed)
            except InvalidTag:
                self.damaged += 1
            number, offset = number + 1, _end(slot)

    def body(self, slot: Slot) -> bytes:
        """Raises ValueError where it is damaged or gone."""
        sealed = os.pread(self._descriptor, slot.body_bytes, slot.offset + PREFIX.size + slot.head_bytes)
        try:
            return self._open(slot, 1, sealed)
        except InvalidTag:
            raise ValueError("the record is damaged") from None

    def _open(self, slot: Slot, part: int, sealed: bytes) -> bytes:
        prefix = PREFIX.pack(slot.head_bytes, slot.body_bytes)
        return self._cipher.decrypt(_nonce(slot.number, part), sealed, prefix)


def _sealed(cipher: AESGCM, number: int, prefix: bytes, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    return cipher.encrypt(_nonce(number, 0), head, prefix), cipher.encrypt(_nonce(number, 1), body, prefix)


def _nonce(number: int, part: int) -> bytes:
    return (2 * number + part).to_bytes(12, "big")


def _end(slot: Slot) -> int:
    return slot.offset + PREFIX.size + slot.head_bytes + slot.body_bytes
