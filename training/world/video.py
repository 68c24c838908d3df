"""A script as an H.264 file."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from training.world.cast import cast
from training.world.renderer import Renderer
from training.world.script import SIDE, Script

_BATCH = 32


def pictures(script: Script, rate: float, renderer: Renderer, *, blind: bool = False) -> Iterator[NDArray[np.uint8]]:
    """The pictures [224, 224, 3] of a script, `rate` a second; plain grey ones instead if `blind`."""
    times = np.arange(0, script.seconds, 1 / rate)
    rng = np.random.default_rng(script.seed)
    for start in range(0, len(times), _BATCH):
        shown = cast(script, times[start : start + _BATCH])
        if blind:
            yield from np.full((len(shown.ground), SIDE, SIDE, 3), 128, dtype=np.uint8)
            continue
        drawn = renderer.draw(*(torch.from_numpy(part) for part in (shown.layers, shown.ground, shown.views)))
        noise = rng.standard_normal(drawn.shape, dtype=np.float32) * shown.views[:, 3, None, None, None]
        noisy = (drawn + torch.from_numpy(noise)).clamp(0, 1)
        yield from (noisy * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def encode(frames: Iterable[NDArray[np.uint8]], rate: float, out: Path, crf: int = 26) -> None:
    """Writes pictures as H.264 to a file, in the container that its name ends in (mp4, mkv)."""
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "g": str(max(1, round(2 * rate)))}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def access_units(frames: Iterable[NDArray[np.uint8]], rate: float, crf: int = 26) -> Iterator[bytes]:
    """Pictures as H.264 access units (Annex B, parameter sets at every key frame), as a camera sends them."""
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = SIDE
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(rate).limit_denominator(1000)
    context.time_base = 1 / context.framerate
    context.thread_count = 1
    context.options = {
        "crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "bf": "0", "g": str(max(1, round(2 * rate)))
    }  # fmt: skip
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        yield from (bytes(packet) for packet in context.encode(frame))
    yield from (bytes(packet) for packet in context.encode(None))
