"""What a picture looks like, in a few numbers: taken in the decoder process, judged by the gateway (health.py)."""

from __future__ import annotations

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.media.jobs import Look

POINTS = 32  # luma is sampled at so many places across and down
ROWS = 90  # block edges are looked for in so many rows
GRID = 8  # pixels: the transform blocks of JPEG, MPEG-4, H.264 and their successors, or half or a quarter of one
CROP = 640  # pixels a side of a still that are looked at
FLAT = 0.5  # grey levels: below this, neighbouring pixels of a picture without noise differ anyway
LUMA_FIRST = ("yuv4", "yuvj4", "gray", "nv12", "nv21")  # 8-bit formats whose first plane is luma

Luma = NDArray[np.uint8]


def look_of_frame(frame: av.VideoFrame) -> Look:
    """Of a decoded video picture at its full size."""
    if not frame.format.name.startswith(LUMA_FIRST) or frame.format.components[0].bits != 8:
        frame = frame.reformat(width=min(frame.width, 640), height=min(frame.height, 360), format="gray")
        return Look(_points(_plane(frame)), 0.0, frame.is_corrupt)
    luma = _plane(frame)
    return Look(_points(luma), blockiness(luma), frame.is_corrupt)


def look_of_image(small: Image.Image, whole: Image.Image | None) -> Look:
    """Of a still as it is handed on, and as it was encoded, None where it was decoded at a fraction of its size."""
    points = _points(np.asarray(small.convert("L")))
    if whole is None:
        return Look(points)
    left, top = ((side - min(side, CROP)) // 2 // GRID * GRID for side in whole.size)
    crop = whole.crop((left, top, left + min(whole.width, CROP), top + min(whole.height, CROP)))
    return Look(points, blockiness(np.asarray(crop.convert("L"))))


def blockiness(luma: Luma) -> float:
    """Median step across the edges of an 8-pixel grid, over the median step elsewhere.

    Medians over the grid's columns, so that edges of things, which fall on a few columns, do not count. Comparing steps
    across block edges with those inside is after Wang, Sheikh, Bovik: No-reference perceptual quality assessment of
    JPEG compressed images, ICIP 2002.
    """
    rows = luma[:: max(luma.shape[0] // ROWS, 1)].astype(np.int16)
    steps = np.abs(np.diff(rows, axis=1)).mean(axis=0, dtype=np.float64)
    blocks = len(steps) // GRID
    if blocks < 4:
        return 0.0
    by_phase = steps[: blocks * GRID].reshape(blocks, GRID)
    edges, inside = np.median(by_phase[:, GRID - 1]), np.median(by_phase[:, : GRID - 1])
    return float((edges + FLAT) / (inside + FLAT))


def _points(luma: Luma) -> bytes:
    height, width = luma.shape
    down = np.arange(POINTS) * height // POINTS
    across = np.arange(POINTS) * width // POINTS
    return luma[np.ix_(down, across)].tobytes()


def _plane(frame: av.VideoFrame) -> Luma:
    plane = frame.planes[0]
    pixels: Luma = np.frombuffer(memoryview(plane), np.uint8)
    return pixels.reshape(plane.height, plane.line_size)[:, : plane.width]
