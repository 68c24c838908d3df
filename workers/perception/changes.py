"""Redundancy dropped before it costs: of a new picture only those patches are kept that look new at their place.

Differential token dropping (TimeChat-Online, arXiv:2504.17343) by pixels, but against the patch that was last *kept*,
so that a slow drift is sent again once it has become a difference. A picture of which nothing is kept is like the
last one (StreamDiffusion's similarity filter, arXiv:2312.12491, without its chance) and need not be encoded at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

USUAL_THRESHOLD = 7  # of 255: see bench/NOTES.md
USUAL_WHOLE = 10  # pictures
BLOCK = 8  # pixels, as JPEG's: a picture decoded at an eighth of its size is its look

Patches = NDArray[np.int64]  # [n]: row-major places in a grid, ascending


@dataclass(frozen=True, slots=True)
class Look:
    """A picture of height x width pixels as the mean colours [down, across, 3] of its blocks; edges cut some."""

    blocks: NDArray[np.int16]
    height: int
    width: int

    @classmethod
    def told(cls, means: bytes, height: int, width: int) -> Look:
        """The look of which these are the `means`. ValueError if a picture of this size has others."""
        blocks = np.frombuffer(means, np.uint8).reshape(-(-height // BLOCK), -(-width // BLOCK), 3)
        return cls(blocks.astype(np.int16), height, width)


def look(picture: NDArray[np.uint8]) -> Look:
    """The look of a picture [height, width, 3]."""
    return Look.told(means(Image.fromarray(picture)), *picture.shape[:2])


def means(image: Image.Image) -> bytes:
    """What a look of an RGB image is told by: the mean colours of its blocks, row by row, a byte each."""
    return image.reduce(BLOCK).tobytes()


@dataclass(frozen=True, slots=True)
class Reference:
    """What each patch looked like when it was last kept, [height, width, colours], and the time of that picture; and
    how many pictures ago one was kept whole."""

    looks: NDArray[np.int16]
    kept_ms: NDArray[np.int64]
    since_whole: int = 0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a picture brings: the patches to keep (None: all of them), and the reference for whatever follows it."""

    patches: Patches | None
    reference: Reference

    @property
    def tokens(self) -> int:
        """How many patches are kept."""
        return self.reference.kept_ms.size if self.patches is None else len(self.patches)


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Keeps a patch if in one of the blocks that it touches some colour's mean moved by more than `threshold` (of 255)
    since it was last kept, or if that is fading from memory: what stands still must not leave with the window.

    Of `every` so many pictures one is kept whole; 0: only what nothing like it came before. `begins`: by how many of
    them the second whole picture comes earlier, so that those of streams that begin together do not all fall together.
    """

    threshold: int
    every: int = 0
    begins: int = 0

    def sight(
        self, seen: Look, height: int, width: int, before: Reference | None, time_ms: int, faded_ms: int = -1
    ) -> Sight:
        """What a picture of height x width patches brings after `before`: all of it, if nothing like it came before.

        Pictures up to `faded_ms` are not counted on any more.
        """
        looks = _by_patch(seen, height, width)
        if before is not None and before.looks.shape != looks.shape:
            before = None
        if before is None or before.since_whole + 1 == self.every:
            since = self.begins if before is None else 0
            return Sight(None, Reference(looks, np.full((height, width), time_ms, np.int64), since))
        kept = (np.abs(looks - before.looks).max(axis=-1) > self.threshold) | (before.kept_ms <= faded_ms)
        np.copyto(looks, before.looks, where=~kept[..., None])
        reference = Reference(looks, np.where(kept, time_ms, before.kept_ms), before.since_whole + 1)
        return Sight(None if kept.all() else np.flatnonzero(kept), reference)


def faded(written: Iterable[tuple[int, int]], room: int) -> int:
    """Up to which time pictures have left the newest `room`: of what was `written`, newest first, times and sizes.

    -1: none has.
    """
    for time_ms, size in written:
        room -= size
        if room < 0:
            return time_ms
    return -1


def _by_patch(seen: Look, height: int, width: int) -> NDArray[np.int16]:
    """The colours [height, width, blocks * 3] of the blocks that each patch touches, equally many for each."""
    places = _places(seen.height, seen.width, height, width)
    return seen.blocks.reshape(-1, 3).take(places, axis=0).reshape(height, width, -1)


@lru_cache(maxsize=64)
def _places(pixels_down: int, pixels_across: int, height: int, width: int) -> NDArray[np.int64]:
    """Where the blocks [height, width, n] that each patch touches stand in a look, row by row."""
    rows, columns = _touched(pixels_down, height), _touched(pixels_across, width)
    places = rows[:, None, :, None] * -(-pixels_across // BLOCK) + columns[None, :, None, :]
    return places.reshape(height, width, -1)


def _touched(pixels: int, patches: int) -> NDArray[np.int64]:
    """The blocks [patches, n] along one side that each patch touches; where they are fewer than n, the last repeats."""
    edges = np.arange(patches + 1) * pixels
    first, last = edges[:-1] // patches // BLOCK, (-(-edges[1:] // patches) - 1) // BLOCK
    span = int((last - first).max()) + 1
    touched: NDArray[np.int64] = np.minimum(first[:, None] + np.arange(span), last[:, None])
    return touched
