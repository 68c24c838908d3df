"""Moving pictures that can be told apart, encoded and decoded, and how alike two of them are."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.encoders import encoded

SIZE = (160, 120)
RATE = 10
Pixels = NDArray[np.float32]


def scene(number: int) -> Image.Image:
    """A ramp of colours with a bright bar, whose place tells the number."""
    width, height = SIZE
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    left = number * 11 % (width - 12)
    pixels[20:100, left : left + 12] = 250
    return Image.fromarray(pixels)


def units(codec: str, count: int, *, key_every: int = 10, reorder: bool = False) -> list[bytes]:
    """One access unit for each scene; with ``reorder``, not in the order in which they are shown."""
    options = {"preset": "ultrafast", "bf": "2"} if reorder else None
    return encoded(codec, _frames(count), size=SIZE, rate=RATE, key_every=key_every, options=options)


def _frames(count: int) -> Iterator[av.VideoFrame]:
    for number in range(count):
        frame = av.VideoFrame.from_image(scene(number))  # type: ignore[no-untyped-call]
        frame.pts = number
        yield frame


def decoded(stream: list[bytes], codec: str) -> list[Pixels]:
    """The reference: what FFmpeg makes of the units, one after the other."""
    context = av.CodecContext.create({"h265": "hevc", "av1": "libdav1d"}.get(codec, codec), "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    pictures = [frame for unit in stream for frame in context.decode(av.Packet(unit))] + context.decode(None)
    return [_pixels(frame) for frame in pictures]


def played(mp4: bytes) -> list[tuple[float, Pixels]]:
    """Seconds and pictures of a clip."""
    with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
        return [(float(frame.time or 0), _pixels(frame)) for frame in container.decode(video=0)]


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal pictures."""
    error = float(np.mean((one - other) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def pixels_of(jpeg: bytes) -> Pixels:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def _pixels(frame: av.VideoFrame) -> Pixels:
    return frame.to_ndarray(format="rgb24").astype(np.float32)
