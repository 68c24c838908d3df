"""Shared memory for pixels: fixed-size picture slots in one file without a name, mapped by worker and engine."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class PixelRing:
    """Slots for RGB pictures; whoever made it owns the file descriptor and says who may write which slot.

    The file has no name, so it is gone with the last process that maps it. Memory is used only for pages that a picture
    has touched.
    """

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        """Maps `fd`, which stays open until `close`. OSError if the file is smaller than the slots."""
        self.fd = fd
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(fd, slots * slot_bytes)

    @classmethod
    def create(cls, slots: int, slot_bytes: int) -> PixelRing:
        """A new ring; `slots` and `slot_bytes` are positive."""
        fd = _nameless_file()
        os.ftruncate(fd, slots * slot_bytes)
        return cls(fd, slots, slot_bytes)

    def pixels(self, slot: int, height: int, width: int) -> Pixels:
        """A writable view uint8 [height, width, 3] of a slot. ValueError if there is no such slot or room in it."""
        size = height * width * 3
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} does not exist; the ring has {self.slots}")
        if height <= 0 or width <= 0 or size > self.slot_bytes:
            raise ValueError(f"a picture of {width} x {height} does not fit a slot of {self.slot_bytes} bytes")
        flat: Pixels = np.frombuffer(self._map, dtype=np.uint8, count=size, offset=slot * self.slot_bytes)
        return flat.reshape(height, width, 3)

    def close(self) -> None:
        """Closes the descriptor; the mapping goes when the last view of it does."""
        os.close(self.fd)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("longlook-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
