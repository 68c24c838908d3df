"""H.264 access units to pictures. Runs in a decoder process."""

from __future__ import annotations

import re
from fractions import Fraction

import av
from av.codec.context import Flags

from server.media.jobs import Done, PictureOut, Result, Setup, Unit
from server.media.stills import frame_to_jpeg

MILLISECOND = Fraction(1, 1000)
START_CODE = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
IDR, SPS = 5, 7  # nal_unit_type, ITU-T H.264 table 7-1
HELD = 32  # wanted pictures that the decoder may hold back for reordering: the standard's limit is 16


class UnitTrack:
    """One elementary stream. Every unit is decoded, since later ones build on it; only the wanted pictures come out."""

    def __init__(self, track: int, setup: Setup) -> None:
        self._track = track
        self._setup = setup
        self._wanted: list[int] = []
        self._context = self._open()
        self._synced = False

    def decode(self, job: Unit) -> list[Result]:
        """The pictures that are ready, then Done; after an error nothing more until the next key frame."""
        if job.fresh:
            self._lose()
        if not self._synced and not starts_sequence(job.data):
            return [Done(need_keyframe=True)]
        self._synced = True
        if job.keep:
            self._wanted = [*self._wanted[1 - HELD :], job.t_ms]
        packet = av.Packet(job.data)
        packet.pts, packet.time_base = job.t_ms, MILLISECOND
        try:
            return [*self._pictures(packet), Done()]
        except av.FFmpegError:
            self._lose()
            return [Done(need_keyframe=True)]

    def flush(self) -> list[Result]:
        try:
            pictures = self._pictures(None)
        except av.FFmpegError:
            pictures = []
        self._lose()  # a flushed decoder starts again at a key frame
        return pictures

    def _pictures(self, packet: av.Packet[av.stream.Stream] | None) -> list[Result]:
        out: list[Result] = []
        for frame in self._context.decode(packet):
            if frame.pts not in self._wanted:
                continue
            self._wanted.remove(frame.pts)
            jpeg = frame_to_jpeg(frame, self._setup)
            width, height = self._setup.width, self._setup.height
            out.append(PictureOut(track=self._track, t_ms=frame.pts, width=width, height=height, jpeg=jpeg))
        return out

    def _lose(self) -> None:
        self._context = self._open()
        self._synced = False
        self._wanted = []

    def _open(self) -> av.VideoCodecContext:
        context = av.CodecContext.create("h264", "r")
        context.thread_count = 1  # frame threads would hold back one picture each
        context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(self._setup.max_pixels)}
        return context


def starts_sequence(unit: bytes) -> bool:
    """Whether decoding can begin here: the unit holds an IDR picture or a parameter set, which comes before one."""
    return any(match[1][0] & 0x1F in (IDR, SPS) for match in START_CODE.finditer(unit))
