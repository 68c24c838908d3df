"""Where a byte stream's init segment ends, and where in it decoding can be taken up. Runs in a decoder process."""

from __future__ import annotations

import struct

from server.media.jobs import StreamForm
from server.media.refusals import Refused

EBML = b"\x1a\x45\xdf\xa3"  # EBML header, with which a WebM begins (RFC 8794, section 11.2.1)
CLUSTER = b"\x1f\x43\xb6\x75"  # Matroska Cluster (RFC 9559, section 5.1.3)
MOOF = b"moof\x00\x00\x00\x10mfhd"  # ISO/IEC 14496-12, section 8.8.4, after the box's size
SIZE_BYTES = 4
SIGN_BYTES = SIZE_BYTES + len(MOOF)  # of the longest sign of a fragment
BEGINNING = 8  # bytes that tell whether a stream begins
BOXES = 1_024  # before a moov there are one or two
BOX = struct.Struct("!I4s")
LONG_BOX = struct.Struct("!I4sQ")


def begins(form: StreamForm, data: bytes | bytearray) -> bool:
    """Whether ``data`` begins with an init segment."""
    return data.startswith(EBML) if form == "webm" else data[4:8] == b"ftyp"


def preamble_end(form: StreamForm, data: bytes | bytearray) -> int | None:
    """Where the init segment ends, None while it is not complete. Raises Refused."""
    if not begins(form, data):
        raise Refused("bad_media", "the stream does not begin with an init segment")
    if form == "webm":
        return _at(data, CLUSTER, 0)
    return _moov_end(data)


def fragment_start(form: StreamForm, data: bytes | bytearray) -> int | None:
    """Where the first fragment (a Cluster, or a moof) begins, if one does."""
    if form == "webm":
        return _at(data, CLUSTER, 0)
    found = _at(data, MOOF, SIZE_BYTES)
    return None if found is None else found - SIZE_BYTES


def _at(data: bytes | bytearray, sign: bytes, begin: int) -> int | None:
    found = data.find(sign, begin)
    return None if found < 0 else found


def _moov_end(data: bytes | bytearray) -> int | None:
    at = 0
    for _ in range(BOXES):
        if len(data) < at + LONG_BOX.size:
            return None
        size, kind = BOX.unpack_from(data, at)
        if size == 1:
            _, _, size = LONG_BOX.unpack_from(data, at)
        if size < BOX.size or kind in (b"mdat", b"moof"):
            raise Refused("unsupported_media", "the MP4 is not fragmented: send it as a whole file")
        at += size
        if kind == b"moov":
            return at if len(data) >= at else None
    raise Refused("bad_media", f"a stream has at most {BOXES} boxes before its moov")
