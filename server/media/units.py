"""Access units of elementary video to pictures. Runs in a decoder process."""

from __future__ import annotations

from fractions import Fraction

import av
from av.codec.context import Flags

from server.media.codecs import NAL_UNITS, VIDEO, crowded
from server.media.jobs import Done, PictureOut, Preamble, Result, Setup, Unit, VideoCodec
from server.media.looks import look_of_frame
from server.media.refusals import Refused
from server.media.stills import frame_to_jpeg

MILLISECOND = Fraction(1, 1000)
HELD = 32  # wanted pictures that the decoder may hold back for reordering: the standard's limit is 16


class UnitTrack:
    """One elementary stream. Every unit is decoded, since later ones build on it; only the wanted pictures come out.

    Units come with capture times, which do not go back: a stream without B pictures.
    """

    def __init__(self, track: int, codec: VideoCodec, setup: Setup) -> None:
        self.codec = codec
        self._track = track
        self._format = VIDEO[codec]
        self._setup = setup
        self._wanted: list[int] = []
        self._parameters = b""
        self._context = self._open()
        self._synced = False

    def decode(self, job: Unit) -> list[Result]:
        """The pictures that are ready, then Done; after an error nothing more until the next key frame.

        Raises:
            Refused: the unit would cost too much.
        """
        if job.preamble is not None:
            self._parameters = job.preamble.data
        if job.fresh or job.preamble is not None:
            self._lose()
        if self._format.annex_b and crowded(job.data):
            self._lose()
            raise Refused("bad_media", f"an access unit has at most {NAL_UNITS} NAL units")
        data = job.data if self._synced else self._beginning(job.data)
        if not data:
            return [Done(need_keyframe=True)]
        self._synced = True
        if job.keep:
            self._wanted = [*self._wanted[1 - HELD :], job.t_ms]
        packet = av.Packet(data)
        packet.pts, packet.time_base = job.t_ms, MILLISECOND
        try:
            return [*self._noticed(job.data), *self._pictures(packet), Done()]
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

    def _beginning(self, unit: bytes) -> bytes:
        """The unit with its parameter sets, empty where decoding cannot begin with it."""
        if not self._format.starts(unit):
            return b""
        if self._format.parameters is None or self._format.parameters(unit):
            return unit
        return self._parameters + unit if self._parameters else b""

    def _noticed(self, unit: bytes) -> list[Result]:
        """The parameter sets where they are new: a later key frame may come without them."""
        found = b"" if self._format.parameters is None else self._format.parameters(unit)
        if not found or found == self._parameters or len(found) > self._setup.preamble_bytes:
            return []
        self._parameters = found
        return [Preamble(track=self._track, form=self.codec, data=found)]

    def _pictures(self, packet: av.Packet[av.stream.Stream] | None) -> list[Result]:
        out: list[Result] = []
        for frame in self._context.decode(packet):
            if frame.pts not in self._wanted:
                continue
            self._wanted.remove(frame.pts)
            jpeg = frame_to_jpeg(frame, self._setup)
            width, height = self._setup.width, self._setup.height
            look = look_of_frame(frame)
            out.append(PictureOut(track=self._track, t_ms=frame.pts, width=width, height=height, jpeg=jpeg, look=look))
        return out

    def _lose(self) -> None:
        self._context = self._open()
        self._synced = False
        self._wanted = []

    def _open(self) -> av.VideoCodecContext:
        context = av.CodecContext.create(self._format.decoder, "r")
        assert isinstance(context, av.VideoCodecContext)  # noqa: S101 - all names are ours
        context.thread_count = 1  # frame threads would hold back one picture each
        context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(self._setup.max_video_pixels)}
        return context
