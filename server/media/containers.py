"""Containers opened by name, with only the parts of FFmpeg that are meant. Runs in a decoder process."""

from __future__ import annotations

from typing import Any, Protocol, cast

import av
from PIL import Image

from server.media.jobs import Setup

VIDEO_DECODERS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "mpeg2video"})
SOUND_DECODERS = frozenset({"aac", "opus", "mp3float", "mp2float", "vorbis", "flac", "ac3"}) | frozenset(
    {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8", "pcm_mulaw", "pcm_alaw"}
)
STREAMS = 8
OPTIONS = {
    "codec_whitelist": ",".join(sorted(VIDEO_DECODERS | SOUND_DECODERS)),
    "protocol_whitelist": "none",  # what a container points to is never opened
    "max_streams": str(STREAMS),
}
# One packet tells all that is needed; more would hold pictures back, and so would parsers.
AT_ONCE = {"probesize": "32", "analyzeduration": "0", "fpsprobesize": "0", "fflags": "noparse+nofillin"}
QUARTER_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Readable(Protocol):
    """Bytes in order; with ``seek`` and ``tell`` as well where they may be read anywhere."""

    def read(self, size: int, /) -> bytes: ...


def open_container(source: Readable, demuxer: str, *, at_once: bool = False) -> av.container.InputContainer:
    """Open with the named demuxer; ``at_once`` for bytes that come slowly. Raises av.FFmpegError, ValueError."""
    options = {**OPTIONS, **AT_ONCE} if at_once else OPTIONS
    opened: av.container.InputContainer = av.open(
        cast(Any, source), "r", format=demuxer, options=options, metadata_errors="ignore"
    )
    return opened


def accepted_video(container: av.container.InputContainer, setup: Setup) -> av.VideoStream | None:
    """The first video track, ready to be decoded, if its codec is accepted."""
    for stream in container.streams.video[:1]:
        context = stream.codec_context
        if context is not None and context.codec.name in VIDEO_DECODERS:
            context.thread_count = 1  # frame threads would hold back one picture each
            context.options = {"max_pixels": str(setup.max_video_pixels)}
            return stream
    return None


def too_large(video: av.VideoStream, setup: Setup) -> bool:
    """Whether the container states pictures of more pixels than are accepted."""
    return video.codec_context.width * video.codec_context.height > setup.max_video_pixels


def accepted_sound(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound track, if its codec is accepted."""
    for stream in container.streams.audio[:1]:
        context = stream.codec_context
        if context is not None and context.codec.name in SOUND_DECODERS:
            return stream
    return None


def upright(frame: av.VideoFrame) -> Image.Transpose | None:
    """What turns a picture as its container says that it is to be shown."""
    return QUARTER_TURNS.get(frame.rotation % 360)
