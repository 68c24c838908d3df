"""Fragmented MP4 and WebM, cut anywhere, to pictures and sound as they come. Runs in a decoder process."""

from __future__ import annotations

from collections.abc import Iterator

import av

from server.media.confinement import Grant
from server.media.demuxing import Demuxing
from server.media.jobs import Done, Failed, Preamble, Result, Setup, Slice, StreamForm
from server.media.preambles import BEGINNING, SIGN_BYTES, begins, fragment_start, preamble_end
from server.media.refusals import Refused
from server.media.sampler import Sampler
from server.media.sounds import SoundTrack


class StreamTrack:
    """One track of such streams, one after the other.

    After bytes are lost a stream goes on at its next fragment, with the init segment of before.
    """

    def __init__(self, track: int, form: StreamForm, setup: Setup, grant: Grant) -> None:
        self.form = form
        self._track = track
        self._setup = setup
        self._grant = grant
        self._sampler = Sampler(setup.fps)
        self._sound = SoundTrack(track)
        self._preamble: Preamble | None = None
        self._demuxing: Demuxing | None = None
        self._waiting = bytearray()  # of an init segment that is not whole yet, or in search of a fragment
        self._begin_ms = 0
        self._refused = False

    def decode(self, job: Slice) -> Iterator[Result]:
        """Pictures and sound that became whole, then Done or Failed."""
        if job.preamble is not None:
            self._preamble = job.preamble
        if begins(self.form, job.data):
            yield from self.flush()
            self._preamble, self._refused = None, False
        elif job.fresh or job.preamble is not None:
            yield from self.flush()
        before = 0 if self._demuxing is None else self._demuxing.decoded
        try:
            yield from self._take(job)
        except Refused as refused:
            self._demuxing, self._preamble = None, None
            self._waiting.clear()
            first, self._refused = not self._refused, True
            yield Failed(code=refused.code, message=str(refused)) if first else Done()
            return
        except av.FFmpegError:
            yield from self.flush()
        decoded = 0 if self._demuxing is None else self._demuxing.decoded - before
        yield Done(need_keyframe=self._need_keyframe, pictures=decoded)

    def flush(self) -> Iterator[Result]:
        """What is held back. The stream can be taken up again at its next fragment."""
        demuxing, self._demuxing = self._demuxing, None
        self._waiting.clear()
        if demuxing is not None:
            self._preamble = demuxing.preamble
            try:
                yield from demuxing.finish()
            except (av.FFmpegError, Refused):
                pass  # it ended in the middle of something: what came out before stands
        yield from self._sound.flush()

    @property
    def _need_keyframe(self) -> bool:
        if self._demuxing is None:
            return self._preamble is not None
        return self._demuxing.starved

    def _take(self, job: Slice) -> Iterator[Result]:
        data = job.data
        if self._demuxing is None:
            data = self._beginning(job)
            if not data or self._preamble is None:
                return
            self._demuxing = Demuxing(
                self.form,
                self._setup,
                self._preamble,
                sampler=self._sampler,
                sound=self._sound,
                grant=self._grant,
            )
        begin_ms = self._begin_ms if self._demuxing.preamble.zero_ms is None else job.t_ms
        yield from self._demuxing.feed(data, begin_ms)
        if self._demuxing.ended:
            yield from self.flush()

    def _beginning(self, job: Slice) -> bytes:
        """The bytes that a demuxer can begin with, once they are there. Raises Refused."""
        if not self._waiting:
            self._begin_ms = job.t_ms
        self._waiting += job.data
        if self._preamble is None:
            whole = self._init_segment()
        else:
            start = fragment_start(self.form, self._waiting)
            whole = b"" if start is None else self._preamble.data + self._waiting[start:]
            if start is None:
                del self._waiting[: 1 - SIGN_BYTES]
        if whole:
            self._waiting.clear()
        return whole

    def _init_segment(self) -> bytes:
        if len(self._waiting) < BEGINNING:
            return b""
        data = bytes(self._waiting)
        end = preamble_end(self.form, data)
        if end is not None and end <= self._setup.preamble_bytes:
            self._preamble = Preamble(track=self._track, form=self.form, data=data[:end])
            return data
        if len(data) > self._setup.preamble_bytes:
            raise Refused("too_large", f"an init segment has at most {self._setup.preamble_bytes} bytes")
        return b""
