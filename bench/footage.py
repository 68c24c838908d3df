"""Camera footage for load tests: rendered and encoded beforehand, so that sending it costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

NOISE = 4.0  # deviation in grey levels, about that of a cheap sensor indoors
BOXES = 6
GOP_S = 2


@dataclass(frozen=True)
class Footage:
    """H.264 access units, Annex B, parameter sets at key frames, no reordering; it may be played in a loop."""

    units: list[bytes]
    fps: int

    def key_unit(self, number: int) -> int:
        """Where the key frame of that number is, counted round the loop."""
        return number * GOP_S * self.fps % len(self.units)

    @property
    def kilobits_per_s(self) -> float:
        return sum(map(len, self.units)) * 8 / 1000 * self.fps / len(self.units)


def footage(seed: int, *, width: int, height: int, fps: int, seconds: int, kilobits_per_s: int) -> Footage:
    """A fixed camera's view: a still background, things that move across it, and sensor noise."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
    context.bit_rate = kilobits_per_s * 1000
    context.thread_count = 1
    context.options = {"preset": "veryfast", "tune": "zerolatency", "profile": "main", "sc_threshold": "0"}
    context.gop_size = GOP_S * fps
    units: list[bytes] = []
    for number, luma in enumerate(_scene(np.random.default_rng(seed), width, height, fps * seconds)):
        picture = np.full((height * 3 // 2, width), 128, np.uint8)
        picture[:height] = luma
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts = number
        units += [bytes(packet) for packet in context.encode(frame)]
    return Footage(units + [bytes(packet) for packet in context.encode(None)], fps)


def _scene(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[NDArray[np.uint8]]:
    coarse = rng.uniform(40, 200, (height // 40 + 2, width // 40 + 2))
    wall = np.kron(coarse, np.ones((40, 40)))[:height, :width].astype(np.float32)
    noise = rng.normal(0, NOISE, (height + 64, width + 64)).astype(np.float32)
    starts = rng.uniform(0, 1, (BOXES, 2))
    speeds = rng.uniform(-0.01, 0.01, (BOXES, 2))
    for number in range(count):
        down, right = rng.integers(0, 64, 2)
        picture = wall + noise[down : down + height, right : right + width]
        for box in range(BOXES):
            top, left = (((starts[box] + speeds[box] * number) % 1.0) * (height - 120, width - 120)).astype(int)
            picture[top : top + 120, left : left + 120] = 30 + 35 * box
        yield picture.clip(0, 255).astype(np.uint8)
