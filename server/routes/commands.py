"""What clients say on a live socket: the binary chunk header, and JSON control messages."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from protocol.errors import BadHeader, BadRequest, TooLarge
from protocol.messages import Mode
from server.media.tracks import Chunk, Codec
from server.terms import AskTerms

CHUNK_HEADER = struct.Struct("!BBHIq")  # version, codec, track, sequence, capture time in microseconds
VERSION = 1


class Command(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of the control messages. Fields that are not known are ignored."""


class TrackOpen(Command, frozen=True, tag="track.open"):
    """The form of a track's sound, in samples a second; other codecs say themselves what they are."""

    track: int
    codec: Literal["jpeg", "png", "webp", "pcm16", "h264", "h265", "vp8", "vp9", "av1", "opus", "aac", "mp4", "webm"]
    rate: int = 16_000
    channels: int = 1


class QuestionCreate(Command, frozen=True, tag="question.create"):
    """A question, with the fields of ``AskTerms``."""

    question: str
    id: str | None = None
    mode: Mode = "frozen"
    at_ms: int | None = None
    remember: bool = True
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def terms(self) -> AskTerms:
        return AskTerms(**msgspec.structs.asdict(self))


class QuestionCancel(Command, frozen=True, tag="question.cancel"):
    """Stop an answer."""

    id: str


class MediaEnd(Command, frozen=True, tag="media.end"):
    """All media were sent."""


class Ping(Command, frozen=True, tag="ping"):
    """Answered by a ``pong`` with the same ``t``."""

    t: float | int | str | None = None


class SessionClose(Command, frozen=True, tag="session.close"):
    """End the session, not only the socket."""


AnyCommand = TrackOpen | QuestionCreate | QuestionCancel | MediaEnd | Ping | SessionClose


class NotJson(BadRequest):
    """The text is no JSON at all: whoever sends it speaks another protocol."""


def parse_chunk(message: bytes) -> Chunk:
    """Raises BadHeader."""
    if len(message) <= CHUNK_HEADER.size:
        raise BadHeader(f"a chunk is a header of {CHUNK_HEADER.size} bytes and a payload")
    version, codec, track, sequence, capture_us = CHUNK_HEADER.unpack_from(message)
    if version != VERSION:
        raise BadHeader(f"chunk version {version} is not known")
    try:
        known = Codec(codec)
    except ValueError:
        raise BadHeader(f"codec {codec} is not known") from None
    return Chunk(known, track, sequence, capture_us, message[CHUNK_HEADER.size :])


def parse_command(text: str, max_bytes: int) -> AnyCommand:
    """Raises TooLarge, NotJson, BadRequest."""
    if len(text) > max_bytes or len(text.encode()) > max_bytes:
        raise TooLarge(f"a control message has at most {max_bytes} bytes")
    try:
        command: AnyCommand = msgspec.json.decode(text, type=AnyCommand)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except (msgspec.DecodeError, RecursionError):
        raise NotJson("the message is not JSON, or nested too deeply") from None
    return command


def command_id(text: str) -> str | None:
    """The ``id`` of a message that is refused, so that the refusal can name it."""
    try:
        named = msgspec.json.decode(text, type=_Named)
    except (msgspec.DecodeError, RecursionError):
        return None
    return named.id[:64] if isinstance(named.id, str) else None


class _Named(msgspec.Struct):
    id: str | None = None
