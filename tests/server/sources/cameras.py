"""Cameras for tests: GStreamer's RTSP server as a process of its own."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.server.wire import frame_of, h264_units, picture

PYTHON = "/usr/bin/python3"  # the system's, which has GStreamer's bindings
PROGRAM = Path(__file__).with_name("gst_camera.py")
HAS_GSTREAMER = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


@dataclass
class CameraProcess:
    """A camera that plays ``units`` over and over. ``start`` after ``kill`` is the same camera again."""

    port: int
    codec: str
    units: Path
    fps: float
    credentials: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        command = [PYTHON, str(PROGRAM), str(self.port), self.codec, str(self.units), str(self.fps), *self.credentials]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listening\n"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def show(self, units: list[bytes]) -> None:
        """What it plays from its next start on."""
        self.units.write_bytes(b"".join(struct.pack("!I", len(unit)) + unit for unit in units))

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


@contextmanager
def camera(
    folder: Path,
    units: list[bytes],
    *,
    port: int,
    codec: str = "h264",
    fps: float = 10.0,
    credentials: tuple[str, ...] = (),
) -> Iterator[CameraProcess]:
    """A camera that listens; skips the test where the system has no GStreamer."""
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", HAS_GSTREAMER], capture_output=True).returncode:
        pytest.skip("needs GStreamer's RTSP server and its Python bindings: deploy/system-packages.txt")
    process = CameraProcess(port, codec, folder / f"units-{port}", fps, credentials)
    process.show(units)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def h264(colour: str, count: int = 20) -> list[bytes]:
    return h264_units([colour] * count, key_every=5)


def jpeg(colour: str) -> list[bytes]:
    return [picture(colour)]


def heavy_jpeg(seed: int = 1) -> list[bytes]:
    """One picture of noise: some 20 kB."""
    noise = np.random.default_rng(seed).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=90)
    return [out.getvalue()]


def h265(colour: str, count: int = 20) -> list[bytes]:
    context = av.CodecContext.create("libx265", "w")
    context.width, context.height, context.pix_fmt = 160, 128, "yuv420p"
    context.time_base = Fraction(1, 10)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "keyint=5:log-level=none"}
    units: list[bytes] = []
    for number in range(count):
        frame = frame_of(colour, (160, 128))
        frame.pts = number
        units += [bytes(packet) for packet in context.encode(frame)]
    return units + [bytes(packet) for packet in context.encode(None)]


async def started(process: CameraProcess) -> None:
    """Like ``start``, for tests whose gateway runs in the same process."""
    await asyncio.to_thread(process.start)
