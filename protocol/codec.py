"""Messages to bytes and back, in one place. A malformed entry is a BadRequest that names what was being read."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocol.errors import BadRequest
from protocol.messages import Control, Lane, Notice, Output, Picture, Sound

T = TypeVar("T")


def encode(message: object) -> bytes:
    """One msgpack map; tagged structs carry their tag in ``type``."""
    return msgspec.msgpack.encode(message)


def decode(kind: type[T], data: bytes) -> T:
    """Reads ``data`` as ``kind`` (a struct, or a union of tagged ones). Unknown fields are ignored."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"malformed {getattr(kind, '__name__', 'message')}: {error}") from error


def decode_output(data: bytes) -> Output:
    """Reads one entry of an output stream. What this version cannot read becomes the notice ``unknown_output``."""
    try:
        message: Output = decode(Output, data)  # type: ignore[arg-type]  # a union is no type to the checker
    except BadRequest:
        return Notice(code="unknown_output", message="the session said something that this version cannot read")
    return message


def decode_lane(lane: Lane, data: bytes) -> Control | Picture | Sound:
    """Reads one entry of a lane."""
    if lane == "video":
        return decode(Picture, data)
    if lane == "audio":
        return decode(Sound, data)
    message: Control = decode(Control, data)  # type: ignore[arg-type]  # a union is no type to the checker
    return message
