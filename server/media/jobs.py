"""What the gateway and a decoder process say to each other: length-prefixed msgpack over one socket pair."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

PREFIX = struct.Struct("!I")
PCM_RATE = 16_000
PIECE_SAMPLES = 1_600  # 100 ms: shorter pieces cost a Redis hop each, longer ones delay speech

StillCodec = Literal["jpeg", "png", "webp"]
VideoCodec = Literal["h264", "h265", "vp8", "vp9", "av1"]
SoundCodec = Literal["opus", "aac"]
StreamForm = Literal["mp4", "webm"]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's birth certificate: what it makes, and what it may use while making it."""

    width: int
    height: int
    fps: float
    quality: int
    max_pixels: int  # of a picture
    max_video_pixels: int = 8_912_896  # of a video's picture: a decoder holds several of them
    memory_bytes: int  # writable memory of its own
    cpu_seconds: float  # processor time for one picture or piece of sound
    total_cpu_seconds: int = 0  # for all that it does, 0 for no limit
    jump_ms: int = 60_000  # a stream's time may differ by so much from the capture times of its slices
    preamble_bytes: int = 262_144


class Preamble(msgspec.Struct, frozen=True, kw_only=True, tag="preamble"):
    """What a track's decoding must begin with: parameter sets, or a container's init segment. Small, and kept.

    ``zero_ms``: session time of a container's time 0, once it is known.
    """

    track: int
    form: VideoCodec | StreamForm
    data: bytes
    zero_ms: float | None = None


class Still(msgspec.Struct, frozen=True, kw_only=True, tag="still"):
    """One encoded picture, captured at session time ``t_ms``."""

    codec: StillCodec
    track: int = 0
    t_ms: int
    data: bytes


class Unit(msgspec.Struct, frozen=True, kw_only=True, tag="unit"):
    """One access unit: H.264 and H.265 in Annex B, VP8 and VP9 frames, AV1 temporal units.

    ``keep`` asks for its picture; ``fresh`` says that units before it are lost.
    """

    codec: VideoCodec = "h264"
    track: int
    t_ms: int
    data: bytes
    keep: bool
    fresh: bool = False
    preamble: Preamble | None = None


class SoundUnit(msgspec.Struct, frozen=True, kw_only=True, tag="sound_unit"):
    """One packet of compressed sound: Opus, or AAC in an ADTS frame."""

    codec: SoundCodec
    track: int
    t_ms: int
    data: bytes


class Slice(msgspec.Struct, frozen=True, kw_only=True, tag="slice"):
    """The next bytes of a fragmented MP4 or a WebM, cut anywhere. ``fresh`` says that bytes before them are lost.

    A slice that begins with an init segment begins a new stream, whose time 0 is at ``t_ms``.
    """

    form: StreamForm
    track: int
    t_ms: int
    data: bytes
    fresh: bool = False
    preamble: Preamble | None = None


class Pcm(msgspec.Struct, frozen=True, kw_only=True, tag="pcm"):
    """Interleaved s16le samples whose first sample was captured at ``t_ms``."""

    track: int
    t_ms: int
    rate: int
    channels: int
    data: bytes


class Flush(msgspec.Struct, frozen=True, kw_only=True, tag="flush"):
    """No more media for now: give out what is held back."""


class File(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """Read the whole file behind the inherited descriptor."""

    demuxer: str


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """Try what a decoder must not be able to do."""


class ClipUnit(msgspec.Struct, frozen=True, array_like=True):
    """An access unit or a JPEG of a clip; ``t_ms`` counts from the clip's start, and grows."""

    t_ms: int
    duration_ms: int
    key: bool
    data: bytes


class ClipOpen(msgspec.Struct, frozen=True, kw_only=True, tag="clip_open"):
    """Begin an MP4 of a stream of ``codec``, or of pictures (``jpeg``). ``head``: its first unit, which comes again."""

    codec: str
    preamble: bytes = b""
    head: bytes


class ClipPart(msgspec.Struct, frozen=True, kw_only=True, tag="clip_part"):
    """The clip's next units."""

    units: list[ClipUnit]


class ClipEnd(msgspec.Struct, frozen=True, kw_only=True, tag="clip_end"):
    """The clip is complete."""


Encoded = Unit | Slice  # what cannot be understood without what came before
Clip = ClipOpen | ClipPart | ClipEnd
Job = Still | Unit | Pcm | SoundUnit | Slice | Flush | File | Probe | Clip


class Look(msgspec.Struct, frozen=True, array_like=True):
    """What a picture looks like. ``points``: luma at 32 x 32 places. ``blocks``: how much steeper it is at block edges
    than between them, 1.0 for none, 0.0 where that cannot be told. ``damaged``: the decoder made up what was missing.
    """

    points: bytes
    blocks: float = 0.0
    damaged: bool = False


class PictureOut(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """A sampled picture as JPEG, ``track`` 0 where its job named none."""

    track: int = 0
    t_ms: int
    width: int
    height: int
    jpeg: bytes
    look: Look | None = None


class SoundOut(msgspec.Struct, frozen=True, kw_only=True, tag="sound"):
    """16 kHz mono s16le, at most 100 ms."""

    track: int = 0
    t_ms: int
    pcm: bytes


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """A file's header was read and holds video. ``duration_ms`` is 0 where the file does not say."""

    duration_ms: int
    audio: bool


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag="probed"):
    """Names of the things that it could do."""

    possible: list[str]


class Jumped(msgspec.Struct, frozen=True, kw_only=True, tag="jumped"):
    """A stream's own time jumped by so much: corrected."""

    track: int
    jump_ms: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job ended without its result; ``code`` is a protocol error code."""

    code: str
    message: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The job ended. ``need_keyframe``: this track cannot be decoded until the next key frame.

    For a slice: how many pictures it completed. For a file: its length as decoded, and how many of its packets were
    damaged.
    """

    need_keyframe: bool = False
    pictures: int = 0
    duration_ms: int = 0
    damaged: int = 0


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """The next bytes of a clip."""

    data: bytes


Result = PictureOut | SoundOut | Preamble | Jumped | Opened | Probed | Piece | Failed | Done

encode = msgspec.msgpack.Encoder().encode
_jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_results: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)
decode_preamble = msgspec.msgpack.Decoder(Preamble).decode
decode_job = _jobs.decode
decode_result = _results.decode


def framed(message: msgspec.Struct) -> bytes:
    """``message`` with its length in front, as it goes over the socket."""
    body = encode(message)
    return PREFIX.pack(len(body)) + body
