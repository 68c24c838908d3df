"""What a client sends and hears, for tests."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Any

import av
from PIL import Image
from websockets.asyncio.client import ClientConnection

Event = dict[str, Any]

JPEG, PNG, WEBP, PCM16, H264 = 1, 2, 3, 4, 5


def picture(colour: str, form: str = "JPEG", size: tuple[int, int] = (160, 120)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


def chunk(codec: int, sequence: int, capture_s: float, data: bytes, *, track: int = 0, version: int = 1) -> bytes:
    return struct.pack("!BBHIq", version, codec, track, sequence, round(capture_s * 1e6)) + data


def frame_of(colour: str, size: tuple[int, int]) -> av.VideoFrame:
    frame: av.VideoFrame = av.VideoFrame.from_image(Image.new("RGB", size, colour))  # type: ignore[no-untyped-call]
    return frame


def h264_units(colours: list[str], *, key_every: int = 4, size: tuple[int, int] = (160, 120)) -> list[bytes]:
    """One Annex B access unit for each colour."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = *size, "yuv420p"
    context.time_base = Fraction(1, 10)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(key_every)}
    units: list[bytes] = []
    for number, colour in enumerate(colours):
        frame = frame_of(colour, size)
        frame.pts = number
        units += [bytes(packet) for packet in context.encode(frame)]
    units += [bytes(packet) for packet in context.encode(None)]
    return units


def video_file(
    colours: list[str], *, rate: int = 4, sound: bool = False, video: bool = True, form: str = "mp4"
) -> bytes:
    """A file with one picture for each colour, ``rate`` a second; an MP4's index is at its end."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        if video:
            stream = container.add_stream("libx264" if form == "mp4" else "libvpx", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        if sound:
            tone = container.add_stream("aac", rate=48_000)
            tone.layout = "mono"
        if video:
            for colour in colours:
                container.mux(stream.encode(frame_of(colour, (160, 120))))
            container.mux(stream.encode(None))
        if sound:
            for number in range(len(colours) * 48_000 // rate // 1024):
                silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
                silence.planes[0].update(bytes(silence.planes[0].buffer_size))
                silence.sample_rate, silence.pts = 48_000, number * 1024
                container.mux(tone.encode(silence))
            container.mux(tone.encode(None))
    return out.getvalue()


async def until(arrived: Callable[[], Awaitable[bool]], limit_s: float = 15.0) -> None:
    """Wait for what no event tells of; fails after ``limit_s``."""
    async with asyncio.timeout(limit_s):
        while not await arrived():  # noqa: ASYNC110 - it is another process, or the bus, that is waited for
            await asyncio.sleep(0.02)


async def hear(socket: ClientConnection, wanted: Callable[[Event], bool] | str, limit_s: float = 15.0) -> Event:
    """The next event that is wanted; others are passed over."""
    async with asyncio.timeout(limit_s):
        while True:
            event: Event = json.loads(await socket.recv())
            if event["type"] == wanted if isinstance(wanted, str) else wanted(event):
                return event


async def say(socket: ClientConnection, **command: Any) -> None:
    await socket.send(json.dumps(command))


async def answer(socket: ClientConnection, question: str = "what colour?", **options: Any) -> Event:
    """Ask, and wait for the answer's end."""
    await say(socket, type="question.create", question=question, **options)
    accepted = await hear(socket, "question.accepted")
    return await hear(socket, lambda e: e["type"] in ("answer.done", "answer.failed") and e["id"] == accepted["id"])
