"""What cameras see: JPEG pictures of which no two are alike, each made from its camera's number and its own.

    python -m bench.camera --video /usr/share/doc/opencv-doc/examples/data/vtest.avi --out FOLDER

writes a video's pictures, one a second, as JPEG files, for machines that cannot decode video.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
QUALITY = 85
COARSE = 8  # pixels on the side of what a noise picture is blown up from
PAN = 24  # pixels between two pictures of a camera that moves
MARGIN = 64  # by which a plane of noise is larger than a picture, so that it can be moved


class View(Protocol):
    """What cameras look at; it travels to the processes that make pictures."""

    @property
    def side(self) -> int: ...

    def pixels(self, camera: int, number: int) -> Pixels:
        """A camera's picture of that number, RGB [side, side, 3]."""
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Soft blocks of random colours: nothing in a picture is like the one before."""

    side: int

    def pixels(self, camera: int, number: int) -> Pixels:
        small = max(self.side // COARSE, 1)
        coarse = np.random.default_rng((camera, number)).integers(0, 256, (small, small, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((self.side, self.side), Image.Resampling.BILINEAR))


@dataclass(frozen=True, slots=True)
class Crops:
    """A folder's pictures to and fro, of which each camera sees a crop of its own, panned if `moving`, under noise of
    so many levels (standard deviation).
    """

    folder: Path
    side: int
    moving: bool = False
    noise: float = 3.0

    def pixels(self, camera: int, number: int) -> Pixels:
        frames = _frames(self.folder)
        whole = frames[_to_and_fro(number, len(frames))]
        high, wide = (size - self.side for size in whole.shape[:2])
        top, left = np.random.default_rng(camera).integers(0, (high + 1, wide + 1))
        if self.moving:
            left = _to_and_fro(int(left) + PAN * number, wide + 1)
        plane, (down, right) = _noise(self.noise, self.side), _offset(camera, number)
        noise = plane[down : down + self.side, right : right + self.side]
        return (whole[top : top + self.side, left : left + self.side] + noise).clip(0, 255).astype(np.uint8)


def jpeg(view: View, camera: int, number: int) -> bytes:
    """A camera's picture as it comes over the wire."""
    buffer = io.BytesIO()
    Image.fromarray(view.pixels(camera, number)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


@contextmanager
def makers(processes: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that make pictures; they have nothing of this one, whose GPU must not be forked."""
    count = processes or max(1, (os.cpu_count() or 2) - 4)
    with _nameless(), ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def _nameless() -> Iterator[None]:
    """Hides the program's own module, which each process that is started would run once more, and with it torch."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


class Album:
    """Pictures of some cameras, made beforehand as far as `numbers` go; the next ones when they are asked for, or, with
    `again`, the same ones once more.
    """

    def __init__(
        self, view: View, cameras: int, numbers: int, processes: int | None = None, *, again: bool = False
    ) -> None:
        self.view, self._numbers, self._again = view, numbers, again
        self._made: dict[tuple[int, int], bytes] = {}
        wanted = [(camera, number) for number in range(numbers) for camera in range(cameras)]
        if processes == 0 or not wanted:
            return
        with makers(processes) as pool:
            made = pool.map(jpeg, [view] * len(wanted), *zip(*wanted, strict=True), chunksize=32)
            self._made = dict(zip(wanted, made, strict=True))

    def jpeg(self, camera: int, number: int) -> bytes:
        number = number % self._numbers if self._again else number
        return self._made.get((camera, number)) or jpeg(self.view, camera, number)


@lru_cache(maxsize=1)
def _frames(folder: Path) -> Sequence[Pixels]:
    """The folder's pictures in the order of their names."""
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))]
    if not frames:
        raise FileNotFoundError(f"{folder} holds no JPEG pictures: python -m bench.camera --out {folder} writes them")
    return frames


@lru_cache(maxsize=1)
def _noise(deviation: float, side: int) -> NDArray[np.float32]:
    size = (side + MARGIN, side + MARGIN, 3)
    return np.random.default_rng(0).normal(0, deviation, size).astype(np.float32)


def _offset(camera: int, number: int) -> tuple[int, int]:
    down, right = np.random.default_rng((camera, number)).integers(0, MARGIN, 2)
    return int(down), int(right)


def _to_and_fro(number: int, count: int) -> int:
    """0 up to `count` - 1 and back, without end."""
    turn = max(2 * count - 2, 1)
    return count - 1 - abs(number % turn - (count - 1)) if count > 1 else 0


def write_frames(source: Path, folder: Path, fps: float = 1.0) -> int:
    """A video's pictures as JPEG files, `fps` of them a second. Returns how many."""
    from bench.dropping import video

    folder.mkdir(parents=True, exist_ok=True)
    frames = video(source, fps)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05}.jpg", "JPEG", quality=95)
    return len(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fps", type=float, default=1.0)
    wanted = parser.parse_args()
    print(f"{write_frames(wanted.video, wanted.out, wanted.fps)} pictures in {wanted.out}")


if __name__ == "__main__":
    main()
