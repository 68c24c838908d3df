"""Pictures and sound that tell their own time, encoded by FFmpeg in every form that is accepted."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.encoders import ENCODERS, encoded
from bench.priority import usual_priority
from server.media.jobs import Setup, VideoCodec

WIDTH, HEIGHT = 160, 128
RATE = 10
TONE_HZ = 440
PSNR_DB = 33.0  # of a picture as handed to the model against the same picture of a reference decode
SETUP = Setup(
    width=WIDTH,
    height=HEIGHT,
    fps=RATE,
    quality=95,
    max_pixels=4_000_000,
    memory_bytes=240 << 20,
    cpu_seconds=5,
)
DECODERS: dict[VideoCodec, str] = {"h264": "h264", "h265": "hevc", "vp8": "vp8", "vp9": "vp9", "av1": "libdav1d"}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A picture and when it is shown, in milliseconds."""

    t_ms: float
    pixels: Pixels


def scene(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Pixels:
    """Soft stripes that move on with every picture, and a bright box that no two pictures have at the same place."""
    width, height = size
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    grey = 90 + 40 * np.sin(2 * np.pi * (x / width + number / 40)) * np.cos(2 * np.pi * y / height)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    left, top = 16 * (number % 9), 16 * (number // 9 % 7)
    picture[top * height // HEIGHT :][: 16 * height // HEIGHT, left : left + 16] += 110
    return picture.clip(0, 255).astype(np.uint8)


def frame(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> av.VideoFrame:
    made: av.VideoFrame = av.VideoFrame.from_ndarray(scene(number, size), format="rgb24")
    made.pts, made.time_base = number, Fraction(1, RATE)
    return made.reformat(format="yuv420p")


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def opened(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def units(
    codec: VideoCodec,
    numbers: Sequence[int],
    *,
    key_every: int = 10,
    bit_rate: int = 1_000_000,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> list[bytes]:
    """One access unit for each picture, in the order in which they are shown."""
    frames = (frame(number, size) for number in numbers)
    packets = encoded(codec, frames, size=size, rate=RATE, key_every=key_every, bit_rate=bit_rate)
    assert len(packets) == len(numbers)
    return packets


def decoded(codec: VideoCodec, data: Sequence[bytes]) -> list[Pixels]:
    """The reference: FFmpeg's decoder as it is, at its own pace, to its end."""
    context: Any = av.CodecContext.create(DECODERS[codec], "r")
    frames = [frame for unit in data for frame in context.decode(av.Packet(unit))]
    return [_pixels(frame) for frame in [*frames, *context.decode(None)]]


@usual_priority()
def stream(
    form: str,
    video: VideoCodec,
    sound: str | None,
    count: int,
    *,
    key_every: int = 10,
    fragment_ms: int = 200,
    options: dict[str, str] | None = None,
    start: int = 0,
) -> bytes:
    """A WebM for live use, or a fragmented MP4, with a tone of 440 Hz where ``sound`` names its codec."""
    out = io.BytesIO()
    moving = {"movflags": "empty_moov+default_base_moof", "frag_duration": str(1000 * fragment_ms)}
    live = {"live": "1", "cluster_time_limit": str(fragment_ms)}
    encoder = ENCODERS[video]
    with av.open(out, "w", format=form, options=moving if form == "mp4" else live) as container:
        pictures: Any = container.add_stream(encoder.name, rate=RATE, options=options or dict(encoder.options))
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pictures.codec_context.gop_size, pictures.bit_rate = key_every, 0 if video == "av1" else 1_000_000
        tone: Any = None if sound is None else container.add_stream(sound, rate=48_000, layout="mono")
        sent = 0
        for number in range(start, start + count):
            container.mux(pictures.encode(frame(number)))
            while tone is not None and sent / 48_000 < (number + 1 - start) / RATE:
                container.mux(tone.encode(_tone(tone.codec_context, sent + start * 48_000 // RATE)))
                sent += _samples(tone.codec_context)
        container.mux(pictures.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return out.getvalue()


def reference(data: bytes) -> list[Shown]:
    """The reference decode of a container: all of it at once, with FFmpeg's own choices."""
    with av.open(io.BytesIO(data), "r") as container:
        return [Shown(1000 * (frame.time or 0.0), _pixels(frame)) for frame in container.decode(video=0)]


def payloads(data: bytes) -> list[bytes]:
    """A container's encoded pictures."""
    with av.open(io.BytesIO(data), "r") as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def cut(data: bytes, seed: int, longest: int = 6_000) -> Iterator[bytes]:
    """``data`` in pieces of any length."""
    source, at = random.Random(seed), 0
    while at < len(data):
        step = source.randint(1, longest)
        yield data[at : at + step]
        at += step


def pitch(pcm: bytes) -> float:
    """Strongest frequency in Hz of 16 kHz sound."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[int(spectrum.argmax())])


def tone_samples(count: int, rate: int, first: int = 0) -> NDArray[np.int16]:
    seconds = (first + np.arange(count)) / rate
    return (12_000 * np.sin(2 * np.pi * TONE_HZ * seconds)).astype(np.int16)


def sound_packets(codec: str, seconds: float, *, rate: int = 48_000, adts: bool = False) -> list[bytes]:
    """Opus packets, or AAC in ADTS frames, of the tone."""
    if adts:
        out = io.BytesIO()
        with av.open(out, "w", format="adts") as container:
            stream: Any = container.add_stream(codec, rate=rate, layout="mono")
            for first in range(0, round(seconds * rate), 1024):
                container.mux(stream.encode(_tone(stream.codec_context, first)))
            container.mux(stream.encode(None))
        return list(_adts(out.getvalue()))
    context: Any = av.CodecContext.create(codec, "w")
    context.sample_rate, context.layout, context.format = rate, "mono", "s16"
    context.open()
    packets: list[bytes] = []
    for first in range(0, round(seconds * rate), context.frame_size):
        packets += [bytes(packet) for packet in context.encode(_tone(context, first))]
    return packets


def _adts(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 6 < len(data):
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        yield data[at : at + length]
        at += length


def _samples(context: Any) -> int:
    return context.frame_size or 960


def _tone(context: Any, first: int) -> av.AudioFrame:
    samples = tone_samples(_samples(context), context.sample_rate, first)
    form = context.format.name
    data = samples if form.startswith("s16") else (samples / 32768).astype(np.float32)
    made: av.AudioFrame = av.AudioFrame.from_ndarray(data[None, :], format=form, layout="mono")
    made.sample_rate, made.pts, made.time_base = context.sample_rate, first, Fraction(1, context.sample_rate)
    return made


def _pixels(frame: av.VideoFrame) -> Pixels:
    small = frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24", interpolation="AREA")
    return small.to_ndarray().astype(np.uint8)
