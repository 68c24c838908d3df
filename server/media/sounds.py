"""PCM of any accepted rate to 16 kHz mono in 100 ms pieces. Runs in a decoder process."""

from __future__ import annotations

from collections.abc import Iterable

import av

from server.media.jobs import PCM_RATE, PIECE_SAMPLES, Pcm, Result, SoundOut

GAP_MS = 100  # a capture time further than this from the samples counted so far starts a new run of pieces


class SoundTrack:
    """One track of sound: resampled, cut into pieces, each stamped by counting samples from the run's first."""

    def __init__(self, track: int) -> None:
        self._track = track
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[int, int] | None = None
        self._start_ms = 0
        self._samples_in = 0
        self._samples_out = 0

    def pcm(self, job: Pcm) -> list[Result]:
        """Pieces that became whole with this chunk.

        Raises:
            ValueError: the bytes are no whole number of samples.
        """
        frame_bytes = 2 * job.channels
        samples, rest = divmod(len(job.data), frame_bytes)
        if rest or not samples:
            raise ValueError(f"{len(job.data)} bytes are no whole number of {frame_bytes}-byte samples")
        frame = av.AudioFrame(format="s16", layout="mono" if job.channels == 1 else "stereo", samples=samples)
        frame.planes[0].update(job.data)
        frame.sample_rate = job.rate
        return self.feed(frame, job.t_ms)

    def feed(self, frame: av.AudioFrame, t_ms: int) -> list[Result]:
        """Resample one decoded frame that starts at ``t_ms``."""
        out: list[Result] = []
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        if self._gap(rate, channels, t_ms):
            out += self.flush()
            self._start_ms, self._samples_in, self._samples_out = t_ms, 0, 0
        if self._resampler is None:
            self._format = (rate, channels)
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=PCM_RATE, frame_size=PIECE_SAMPLES)
        self._samples_in += frame.samples
        frame.pts = None  # times are counted here: the resampler's own would drift with rounded milliseconds
        return out + self._stamp(self._resampler.resample(frame))

    def flush(self) -> list[Result]:
        """The last, shorter piece of the run."""
        if self._resampler is None:
            return []
        resampler, self._resampler = self._resampler, None
        return self._stamp(resampler.resample(None))

    def _gap(self, rate: int, channels: int, t_ms: int) -> bool:
        if self._resampler is None or self._format != (rate, channels):
            return True
        return abs(t_ms - (self._start_ms + 1000 * self._samples_in / rate)) > GAP_MS

    def _stamp(self, frames: Iterable[av.AudioFrame | None]) -> list[Result]:
        out: list[Result] = []
        for frame in frames:
            if frame is None or not frame.samples:
                continue
            t_ms = self._start_ms + 1000 * self._samples_out // PCM_RATE
            self._samples_out += frame.samples
            out.append(SoundOut(track=self._track, t_ms=t_ms, pcm=bytes(frame.planes[0])[: 2 * frame.samples]))
        return out
