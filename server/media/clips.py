"""Spans of recorded video to MP4: access units as they are where an MP4 takes their codec, else pictures encoded anew.

Runs in a decoder process. The MP4 is fragmented (ISO/IEC 14496-12, section 8.8), so that it can be sent while it is
being made, whatever its length.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
from PIL import Image

from server.media.jobs import ClipEnd, ClipOpen, ClipPart, ClipUnit, Done, Failed, Piece, Result, Setup
from server.media.stills import open_picture

MILLISECOND = Fraction(1, 1000)
FRAGMENTS = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000"}  # a fragment each second
# H.264 plays everywhere; a build of FFmpeg without an encoder for it makes VP9.
ENCODERS = {
    "libx264": {"preset": "veryfast", "tune": "zerolatency", "crf": "20"},
    "libopenh264": {"rc_mode": "quality"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "24", "b:v": "0", "lag-in-frames": "0"},
}
FOURCC = {"vp9": b"VP90", "av1": b"AV01"}
RAW = {"h264": "h264", "h265": "hevc"}
PICTURES_PER_KEY = 10


class ClipMaker:
    """One clip: opened with its first unit, fed in order, ended once. What cannot be made is Failed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._sink = _Sink()
        self._track: _Copied | _Encoded | None = None

    def work(self, job: ClipOpen | ClipPart | ClipEnd) -> Iterator[Result]:
        """Pieces of the MP4, then Done."""
        match job:
            case ClipOpen():
                self._container = av.open(self._sink, "w", format="mp4", options=FRAGMENTS)
                if job.codec == "jpeg":
                    self._track = _Encoded(self._container, job.head, self._setup)
                else:
                    template = _template(job.codec, job.preamble + job.head)
                    if template is None:
                        yield Failed(code="unsupported_media", message="the stream cannot be put into an MP4 as it is")
                        return
                    self._track = _Copied(self._container, template)
            case ClipPart() if self._track is not None:
                for unit in job.units:
                    self._track.add(unit)
            case ClipEnd() if self._track is not None:
                self._track.end()
                self._container.close()
            case _:
                raise ValueError("no clip was opened")
        if made := self._sink.taken():
            yield Piece(data=made)
        yield Done()


class _Sink:
    """What the muxer writes; it cannot be sought in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        made, self._pieces = b"".join(self._pieces), []
        return made


class _Copied:
    """Access units put into the container as they are."""

    def __init__(self, container: av.container.OutputContainer, template: av.VideoStream) -> None:
        self._container = container
        self._stream = container.add_stream_from_template(template, opaque=True)

    def add(self, unit: ClipUnit) -> None:
        packet = av.Packet(unit.data)
        packet.stream = self._stream
        packet.time_base = MILLISECOND
        packet.pts = packet.dts = unit.t_ms
        packet.duration = unit.duration_ms
        packet.is_keyframe = unit.key
        self._container.mux(packet)

    def end(self) -> None:
        return


class _Encoded:
    """JPEG pictures encoded one after the other."""

    def __init__(self, container: av.container.OutputContainer, first: bytes, setup: Setup) -> None:
        self._container = container
        self._setup = setup
        width, height = _picture(first, setup).size
        name = next(name for name in ENCODERS if name in av.codecs_available)
        stream = container.add_stream(name, rate=25, options=ENCODERS[name])
        assert isinstance(stream, av.VideoStream)  # noqa: S101 - all encoders are of video
        stream.width, stream.height = width - width % 2, height - height % 2  # as 4:2:0 wants it
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        stream.codec_context.gop_size = PICTURES_PER_KEY
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._durations: dict[int, int] = {}

    def add(self, unit: ClipUnit) -> None:
        frame = av.VideoFrame.from_image(_picture(unit.data, self._setup))  # type: ignore[no-untyped-call]
        frame.pts, frame.time_base = unit.t_ms, MILLISECOND
        self._durations[unit.t_ms] = unit.duration_ms
        self._mux(self._stream.encode(frame))

    def end(self) -> None:
        self._mux(self._stream.encode(None))

    def _mux(self, packets: list[av.Packet[av.VideoStream]]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts or 0, 0)
            self._container.mux(packet)


def _template(codec: str, data: bytes) -> av.VideoStream | None:
    """A stream with the parameters of the one that begins with ``data``; None where its pictures are out of order, for
    units have one time alone.
    """
    name, fourcc = RAW.get(codec), FOURCC.get(codec)
    if name is None and fourcc is None:
        return None
    whole = data if fourcc is None else _ivf(fourcc, data)
    container = av.open(io.BytesIO(whole), "r", format=name or "ivf")
    stream = container.streams.video[0]
    return None if stream.codec_context.has_b_frames or not stream.codec_context.width else stream


def _ivf(fourcc: bytes, unit: bytes) -> bytes:
    """The unit as a file of one frame: little-endian, a header of 32 bytes, then size and time of each frame."""
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, 0, 0, 1000, 1, 1, 0)
    return header + struct.pack("<IQ", len(unit), 0) + unit


def _picture(jpeg: bytes, setup: Setup) -> Image.Image:
    with open_picture("jpeg", jpeg, setup) as image:
        return image.convert("RGB")
