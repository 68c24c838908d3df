"""The binary media header and the addresses of the wire contract (docs/protocol.md)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from longlook_client._errors import BadRequestError

HEADER: Final = struct.Struct("!BBHIq")
VERSION: Final = 1
MAX_TRACK: Final = 0xFFFF
MAX_SEQUENCE: Final = 0xFFFFFFFF


class Codec(IntEnum):
    JPEG = 1
    PNG = 2
    WEBP = 3
    PCM16 = 4
    H264 = 5


def pack_chunk(codec: Codec, track: int, sequence: int, captured_us: int, payload: bytes) -> bytes:
    """One binary message: the 16-byte header, then the payload. ``captured_us`` is microseconds on a forward clock."""
    return HEADER.pack(VERSION, codec, track, sequence, captured_us) + payload


def picture_codec(picture: bytes) -> Codec:
    """The codec that a picture's first bytes announce; :class:`BadRequestError` for anything but JPEG, PNG, WebP."""
    if picture.startswith(b"\xff\xd8\xff"):
        return Codec.JPEG
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return Codec.PNG
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return Codec.WEBP
    raise BadRequestError("bad_media", "the picture is neither JPEG, PNG nor WebP")


def live_address(base_url: str, session_id: str, token: str | None, last_event_id: str | None) -> str:
    """The WebSocket address of a session's live socket under ``base_url`` (http or https)."""
    parts = urlsplit(base_url)
    query = {"session": session_id}
    if token:
        query["token"] = token
    if last_event_id:
        query["last_event_id"] = last_event_id
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/v1/live", urlencode(query), ""))
