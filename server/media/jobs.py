"""What the gateway and a decoder process say to each other: length-prefixed msgpack over one socket pair."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

PREFIX = struct.Struct("!I")
PCM_RATE = 16_000
PIECE_SAMPLES = 1_600  # 100 ms: shorter pieces cost a Redis hop each, longer ones delay speech

StillCodec = Literal["jpeg", "png", "webp"]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's birth certificate: what it makes, and what it may use while making it."""

    width: int
    height: int
    fps: float
    quality: int
    max_pixels: int
    memory_bytes: int
    cpu_seconds: int  # per job


class Still(msgspec.Struct, frozen=True, kw_only=True, tag="still"):
    """One encoded picture, captured at session time ``t_ms``."""

    codec: StillCodec
    track: int = 0
    t_ms: int
    data: bytes


class Unit(msgspec.Struct, frozen=True, kw_only=True, tag="unit"):
    """One H.264 access unit, Annex B. ``keep`` asks for its picture; ``fresh`` says that units before it are lost."""

    track: int
    t_ms: int
    data: bytes
    keep: bool
    fresh: bool = False


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


Job = Still | Unit | Pcm | Flush | File


class PictureOut(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """A sampled picture as JPEG, ``track`` 0 where its job named none."""

    track: int = 0
    t_ms: int
    width: int
    height: int
    jpeg: bytes


class SoundOut(msgspec.Struct, frozen=True, kw_only=True, tag="sound"):
    """16 kHz mono s16le, at most 100 ms."""

    track: int = 0
    t_ms: int
    pcm: bytes


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """A file's header was read and holds video. ``duration_ms`` is 0 where the file does not say."""

    duration_ms: int
    audio: bool


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job ended without its result; ``code`` is a protocol error code."""

    code: str
    message: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The job ended. ``need_keyframe``: the units of this track cannot be decoded until the next key frame.

    For a file: its length as decoded, and how many of its packets were damaged.
    """

    need_keyframe: bool = False
    duration_ms: int = 0
    damaged: int = 0


Result = PictureOut | SoundOut | Opened | Failed | Done

encode = msgspec.msgpack.Encoder().encode
_jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_results: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)
decode_job = _jobs.decode
decode_result = _results.decode


def framed(message: msgspec.Struct) -> bytes:
    """``message`` with its length in front, as it goes over the socket."""
    body = encode(message)
    return PREFIX.pack(len(body)) + body
