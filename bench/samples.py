"""Small real media of every accepted format, made here: what hostile inputs are mutations of."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.encoders import ENCODERS, Encoder, encoded

SIZE = (160, 120)
PICTURES = 8
RATE = 8  # pictures a second
KEY_EVERY = 4
SOUND_RATE = 48_000
SOUND_FRAME = 1024

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A format's name, and media of it as the pieces that are sent one after the other; decoding starts at each head.

    ``kind`` is the content type by which it goes in whole over REST, empty for what goes over the socket.
    """

    form: str
    pieces: tuple[bytes, ...]
    kind: str = ""


def samples() -> list[Sample]:
    """One or more for each format, the same at every call."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder's errors alone
    scene = list(_scene())
    return [*_stills(scene[0]), *_units(scene), *_streams(scene), *_sounds(), *_files(scene)]


def _scene() -> Iterator[Picture]:
    rng = np.random.default_rng(7)
    width, height = SIZE
    wall = np.kron(rng.integers(30, 220, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    for number in range(PICTURES):
        picture = (wall + rng.normal(0, 6, wall.shape)).clip(0, 255).astype(np.uint8)
        picture[20:60, 10 * number : 10 * number + 40] = (200, 30, 60)
        yield picture


# --- stills -----------------------------------------------------------------------------------------------------------


def _stills(picture: Picture) -> Iterator[Sample]:
    image = Image.fromarray(picture)
    turned = Image.Exif()
    turned[0x0112] = 6
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("jpeg", image, {"quality": 80, "exif": turned}),
        ("jpeg", image, {"quality": 50, "progressive": True}),
        ("jpeg", image.convert("CMYK"), {}),
        ("jpeg", image.convert("L"), {"restart_marker_rows": 1}),
        ("png", image, {}),
        ("png", image.convert("P"), {"transparency": 3}),
        ("png", Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257), {}),
        ("webp", image, {"quality": 60}),
        ("webp", image.convert("RGBA"), {"lossless": True}),
        ("webp", image, {"save_all": True, "append_images": [image.rotate(90)] * 3}),
    ]
    for form, still, options in forms:
        out = io.BytesIO()
        still.save(out, form, **options)
        yield Sample(form, (out.getvalue(),))


# --- elementary streams -----------------------------------------------------------------------------------------------


def _units(scene: list[Picture]) -> Iterator[Sample]:
    for form in ENCODERS:
        units = encoded(form, _frames(scene), size=SIZE, rate=RATE, key_every=KEY_EVERY)
        yield Sample(form, tuple(units))


def _frames(scene: list[Picture]) -> Iterator[av.VideoFrame]:
    for number, picture in enumerate(scene):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts = number
        yield frame


def _sounds() -> Iterator[Sample]:
    wave = _tone()
    yield Sample("pcm", tuple(bytes(wave[at : at + 1600].tobytes()) for at in range(0, 8000, 1600)))
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)  # noqa: S101
    encoder.sample_rate, encoder.layout, encoder.format = SOUND_RATE, "mono", "s16"
    yield Sample("opus", tuple(bytes(packet) for frame in _sound_frames("s16") for packet in encoder.encode(frame)))
    adts = _container("adts", [], sound="aac")
    yield Sample("aac", tuple(_adts_frames(adts)))


def _tone() -> NDArray[np.int16]:
    return (8000 * np.sin(np.arange(SOUND_RATE) / 20)).astype(np.int16)


def _sound_frames(form: str) -> Iterator[av.AudioFrame]:
    wave = _tone()
    for at in range(0, len(wave) - SOUND_FRAME, SOUND_FRAME):
        piece = wave[None, at : at + SOUND_FRAME]
        samples = piece if form == "s16" else (piece / 32768).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format=form, layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, at
        yield frame


def _adts_frames(data: bytes) -> Iterator[bytes]:
    """ISO/IEC 13818-7, 6.2: a frame's length is 13 bits from bit 30 of its header on."""
    at = 0
    while at + 7 <= len(data):
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        yield data[at : at + length]
        at += max(length, 7)


# --- containers -------------------------------------------------------------------------------------------------------

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def _streams(scene: list[Picture]) -> Iterator[Sample]:
    mp4 = _container("mp4", scene, video="h264", sound="aac", options=FRAGMENTED)
    yield Sample("mp4", tuple(_cut(mp4, [b"moof"], back=4)))
    webm = _container("webm", scene, video="vp8", sound="libopus", options={"cluster_time_limit": "300"})
    yield Sample("webm", tuple(_cut(webm, [b"\x1f\x43\xb6\x75"], back=0)))


def _files(scene: list[Picture]) -> Iterator[Sample]:
    kinds = [
        ("mp4", "h264", "aac", "video/mp4"),
        ("mp4", "h265", "", "video/mp4"),
        ("webm", "vp9", "libopus", "video/webm"),
        ("matroska", "h264", "pcm_f32le", "video/x-matroska"),
        ("avi", "mjpeg", "pcm_s16le", "video/x-msvideo"),
        ("mpegts", "h264", "aac", "video/mp2t"),
        ("mov", "mpeg4", "pcm_s16le", "video/quicktime"),
    ]
    for form, video, sound, kind in kinds:
        yield Sample("file", (_container(form, scene, video=video, sound=sound),), kind)
    yield Sample("file", (_container("matroska", scene, video="h264", sound="pcm_f32le", nan=True),), "video/mp4")


def _container(
    form: str,
    scene: list[Picture],
    *,
    video: str = "",
    sound: str = "",
    options: dict[str, str] | None = None,
    nan: bool = False,
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form, options={"fflags": "bitexact", **(options or {})}) as container:
        encoder = ENCODERS.get(video, Encoder(video))
        pictures = container.add_stream(encoder.name, rate=RATE, options=dict(encoder.options)) if video else None
        sounds = container.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        if isinstance(pictures, av.VideoStream):
            pictures.width, pictures.height = SIZE
            pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            pictures.codec_context.thread_count = 1
            pictures.codec_context.gop_size = KEY_EVERY
            for frame in _frames(scene):
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
        if isinstance(sounds, av.AudioStream):
            for tone in _sound_frames({"aac": "fltp", "pcm_f32le": "flt"}.get(sound, "s16")):
                if nan:
                    tone.planes[0].update(np.full(SOUND_FRAME, np.nan, np.float32).tobytes())
                container.mux(sounds.encode(tone))
            container.mux(sounds.encode(None))
    return out.getvalue()


def _cut(data: bytes, marks: list[bytes], *, back: int) -> Iterator[bytes]:
    """Pieces that begin where a mark stands, ``back`` bytes before it."""
    places = [0]
    for mark in marks:
        at = data.find(mark)
        while at >= 0:
            places.append(at - back)
            at = data.find(mark, at + 1)
    places = sorted({*places, len(data)})
    for begin, end in pairwise(places):
        yield data[begin:end]
