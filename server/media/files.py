"""Whole video files, read from an inherited descriptor. Runs in a decoder process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import av

from server.media.confinement import Grant
from server.media.containers import accepted_sound, accepted_video, open_container, too_large, upright
from server.media.jobs import Done, Failed, File, Opened, PictureOut, Result, Setup
from server.media.looks import look_of_frame
from server.media.sampler import Sampler
from server.media.sounds import SoundTrack
from server.media.stills import frame_to_jpeg

LONGEST_GAP_MS = 3_600_000  # a time stamp further ahead than this is damage, not a gap


def read_file(job: File, file: BinaryIO, setup: Setup, grant: Grant) -> Iterator[Result]:
    """Opened, then pictures at the session's rate and 100 ms pieces of sound in the file's order, then Done.

    Session times count from the file's start. The file may be read anywhere, so an index at the end is found. ``grant``
    gives each packet its processor time.
    """
    with file:
        try:
            container = open_container(file, job.demuxer)
        except (av.FFmpegError, ValueError):
            yield Failed(code="bad_media", message="the file's header cannot be read")
            return
        with container:
            yield from _read(container, setup, grant)


def _read(container: av.container.InputContainer, setup: Setup, grant: Grant) -> Iterator[Result]:
    if not container.streams.video:
        yield Failed(code="no_video", message="the file holds no video track")
        return
    video = accepted_video(container, setup)
    if video is None:
        yield Failed(code="unsupported_media", message="the file's video is of a codec that is not accepted")
        return
    if too_large(video, setup):
        yield Failed(code="too_large", message="the video has more pixels a picture than are accepted")
        return
    sound = accepted_sound(container)
    yield Opened(duration_ms=max((container.duration or 0) // 1000, 0), audio=sound is not None)
    yield from _Reading(container, video, sound, setup, grant).results()


class _Reading:
    """One pass over a file's packets."""

    def __init__(
        self,
        container: av.container.InputContainer,
        video: av.VideoStream,
        sound: av.AudioStream | None,
        setup: Setup,
        grant: Grant,
    ) -> None:
        self._container = container
        self._streams = [stream for stream in (video, sound) if stream is not None]
        self._setup = setup
        self._grant = grant
        self._sampler = Sampler(setup.fps)
        self._sound = SoundTrack(0)
        self._origin_ms = (container.start_time or 0) / 1000
        self._period_ms = 1000 / float(video.average_rate or 25)
        self._next_ms = 0.0  # end of the newest picture
        self._pictures = 0
        self._damaged = 0

    def results(self) -> Iterator[Result]:
        try:
            for packet in self._container.demux(self._streams):
                self._grant()
                yield from self._packet(packet)
        except av.FFmpegError:
            self._damaged += 1  # a file cut short: what came before stands
        yield from self._sound.flush()
        if not self._pictures:
            yield Failed(code="bad_media", message="no picture of the file's video can be decoded")
        else:
            yield Done(duration_ms=round(self._next_ms), damaged=self._damaged)

    def _packet(self, packet: av.Packet[av.stream.Stream]) -> Iterator[Result]:
        try:
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    yield from self._video(frame)
                elif isinstance(frame, av.AudioFrame):
                    yield from self._sound.feed(frame, max(round(self._time_ms(frame, self._next_ms)), 0))
        except (av.FFmpegError, ValueError):
            self._damaged += 1  # a damaged packet costs its own pictures, or its own sound, alone

    def _video(self, frame: av.VideoFrame) -> Iterator[Result]:
        t_ms = max(self._time_ms(frame, self._next_ms), self._next_ms - self._period_ms, 0.0)
        self._next_ms = t_ms + self._period_ms
        self._pictures += 1
        if not self._sampler.keep(t_ms):
            return
        jpeg = frame_to_jpeg(frame, self._setup, upright(frame))
        width, height = self._setup.width, self._setup.height
        yield PictureOut(t_ms=round(t_ms), width=width, height=height, jpeg=jpeg, look=look_of_frame(frame))

    def _time_ms(self, frame: av.VideoFrame | av.AudioFrame, unknown: float) -> float:
        if frame.time is None:
            return unknown
        t_ms = 1000 * frame.time - self._origin_ms
        return t_ms if t_ms <= self._next_ms + LONGEST_GAP_MS else unknown
