"""One run of a demuxer over a byte stream, as far as its bytes have come. Runs in a decoder process."""

from __future__ import annotations

from collections.abc import Iterator

import av
import msgspec

from server.media.confinement import Grant
from server.media.containers import accepted_sound, accepted_video, open_container, too_large, upright
from server.media.coroutines import Reader
from server.media.jobs import Jumped, PictureOut, Preamble, Result, Setup, StreamForm
from server.media.looks import look_of_frame
from server.media.refusals import Refused
from server.media.sampler import Sampler
from server.media.sounds import SoundTrack
from server.media.stills import frame_to_jpeg

DEMUXERS: dict[StreamForm, str] = {"mp4": "mp4", "webm": "matroska"}
LATE_START_MS = 1_000  # a stream whose own time begins later was cut from a longer one


class Demuxing:
    """Pictures at the session's rate, and sound, from the bytes of one stream. Decoding begins at a key frame.

    Args:
        preamble: the stream's init segment; without its ``zero_ms``, time 0 is at the capture time of the first bytes.
        grant: gives each packet its processor time.
    """

    def __init__(
        self,
        form: StreamForm,
        setup: Setup,
        preamble: Preamble,
        *,
        sampler: Sampler,
        sound: SoundTrack,
        grant: Grant,
    ) -> None:
        self.decoded = 0
        self.starved = False  # pictures were left out for want of a key frame
        self.preamble = preamble
        self._demuxer = DEMUXERS[form]
        self._setup = setup
        self._sampler = sampler
        self._sound = sound
        self._grant = grant
        self._synced = False
        self._now_ms = 0
        self._reader: Reader[Result] = Reader(self._read)

    @property
    def ended(self) -> bool:
        return self._reader.ended

    def feed(self, data: bytes, t_ms: int) -> Iterator[Result]:
        """What becomes whole with these bytes, sent at session time ``t_ms``. Raises Refused, av.FFmpegError."""
        self._now_ms = t_ms
        yield from self._reader.feed(data)

    def finish(self) -> Iterator[Result]:
        """What is held back; nothing more can be fed."""
        yield from self._reader.finish()

    def _read(self, reader: Reader[Result]) -> None:
        with open_container(reader, self._demuxer, at_once=True) as container:
            video, sound = accepted_video(container, self._setup), accepted_sound(container)
            tracks = [stream for stream in (video, sound) if stream is not None]
            if not tracks:
                raise Refused("unsupported_media", "no track of the stream is of a codec that is accepted")
            if video is not None and too_large(video, self._setup):
                raise Refused("too_large", "the stream's pictures have more pixels than are accepted")
            for packet in container.demux(tracks):
                self._grant()
                for result in self._video(packet) if packet.stream is video else self._audio(packet):
                    reader.emit(result)

    def _video(self, packet: av.Packet[av.stream.Stream]) -> Iterator[Result]:
        if packet.size and not self._synced:
            self._synced = packet.is_keyframe
            self.starved = not self._synced
            if self.starved:
                return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self._synced, self.starved = False, True
            packet.stream.codec_context.flush_buffers()
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                self.decoded += 1
                yield from self._picture(frame)

    def _picture(self, frame: av.VideoFrame) -> Iterator[Result]:
        yield from self._tell_time(frame)
        t_ms = self._time_ms(frame)
        if self._sampler.keep(t_ms):
            jpeg = frame_to_jpeg(frame, self._setup, upright(frame))
            width, height = self._setup.width, self._setup.height
            look = look_of_frame(frame)
            yield PictureOut(track=self.preamble.track, t_ms=t_ms, width=width, height=height, jpeg=jpeg, look=look)

    def _audio(self, packet: av.Packet[av.stream.Stream]) -> Iterator[Result]:
        try:
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    yield from self._tell_time(frame)
                    yield from self._sound.feed(frame, self._time_ms(frame))
        except (av.FFmpegError, ValueError):
            return  # a damaged packet costs its own sound alone

    def _time_ms(self, frame: av.VideoFrame | av.AudioFrame) -> int:
        return max(round((self.preamble.zero_ms or 0.0) + 1000 * (frame.time or 0.0)), 0)

    def _tell_time(self, frame: av.VideoFrame | av.AudioFrame) -> Iterator[Result]:
        """Where the stream's time 0 lies, when it becomes known, and again if the stream's own time jumps."""
        media_ms = 1000 * (frame.time or 0.0)
        zero_ms = self.preamble.zero_ms
        if zero_ms is None:
            zero_ms = self._now_ms - (media_ms if abs(media_ms) > LATE_START_MS else 0.0)
        elif abs(zero_ms + media_ms - self._now_ms) > self._setup.jump_ms:
            yield Jumped(track=self.preamble.track, jump_ms=round(zero_ms + media_ms - self._now_ms))
            zero_ms = self._now_ms - media_ms
        if zero_ms != self.preamble.zero_ms:
            self.preamble = msgspec.structs.replace(self.preamble, zero_ms=zero_ms)
            yield self.preamble
