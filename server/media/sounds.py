"""Sound of any accepted form to 16 kHz mono in 100 ms pieces. Runs in a decoder process."""

from __future__ import annotations

from collections.abc import Iterable

import av

from server.media.jobs import PCM_RATE, PIECE_SAMPLES, Pcm, Result, SoundCodec, SoundOut, SoundUnit
from server.media.refusals import Refused

LOWEST_RATE, HIGHEST_RATE = 8_000, 48_000
GAP_MS = 100  # a capture time further than this from the samples counted so far starts a new run of pieces


class SoundTrack:
    """One track of sound: resampled, cut into pieces, each stamped by counting samples from the run's first."""

    def __init__(self, track: int) -> None:
        self._track = track
        self._decoder: av.AudioCodecContext | None = None
        self._codec: SoundCodec | None = None
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

    def unit(self, job: SoundUnit) -> list[Result]:
        """Pieces that became whole with this packet.

        Raises:
            av.FFmpegError: it is damaged, the next one is not. Refused: it is not one packet.
        """
        if job.codec == "aac" and _adts_bytes(job.data) != len(job.data):
            raise Refused("bad_media", "a chunk of AAC is one ADTS frame")  # of many, each costs as much as the first
        if self._decoder is None or self._codec != job.codec:
            self._decoder, self._codec = _open_decoder(job.codec), job.codec
        out: list[Result] = []
        t_ms = float(job.t_ms)
        for frame in self._decoder.decode(av.Packet(job.data)):
            out += self.feed(frame, round(t_ms))
            t_ms += 1000 * frame.samples / frame.sample_rate
        return out

    def feed(self, frame: av.AudioFrame, t_ms: int) -> list[Result]:
        """Resample one decoded frame that starts at ``t_ms``.

        Raises:
            ValueError: it is of a rate that is not accepted.
        """
        out: list[Result] = []
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ValueError(f"sound of {rate} Hz is not accepted")
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


def _adts_bytes(data: bytes) -> int:
    """The length that an ADTS header states (ISO/IEC 13818-7, 6.2), -1 for what does not begin with one."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF0 != 0xF0:
        return -1
    return (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5


def _open_decoder(codec: SoundCodec) -> av.AudioCodecContext:
    """FFmpeg's own decoder of that name. AAC in ADTS says itself what it is; Opus is decoded to 48 kHz stereo."""
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.AudioCodecContext)  # noqa: S101 - both names are ours
    if codec == "opus":
        context.sample_rate, context.layout = HIGHEST_RATE, "stereo"  # RFC 6716, section 2
    context.thread_count = 1
    return context
