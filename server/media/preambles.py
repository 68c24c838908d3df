"""Where a byte stream's init segment ends, and where in it decoding can be taken up. Runs in a decoder process."""

from __future__ import annotations

import re
import struct

from server.media.jobs import StreamForm
from server.media.refusals import Refused

EBML = b"\x1a\x45\xdf\xa3"  # EBML header, with which a WebM begins (RFC 8794, section 11.2.1)
CLUSTER = b"\x1f\x43\xb6\x75"  # Matroska Cluster (RFC 9559, section 5.1.3)
FRAGMENT = {
    "webm": re.compile(re.escape(CLUSTER)),
    "mp4": re.compile(rb"....moof\x00\x00\x00\x10mfhd", re.DOTALL),  # ISO/IEC 14496-12, section 8.8.4
}
SIGN_BYTES = 16  # of the longest sign above
BEGINNING = 8  # bytes that tell whether a stream begins
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
        found = data.find(CLUSTER)
        return None if found < 0 else found
    return _moov_end(data)


def fragment_start(form: StreamForm, data: bytes | bytearray) -> int | None:
    """Where the first fragment (a Cluster, or a moof) begins, if one does."""
    found = FRAGMENT[form].search(data)
    return None if found is None else found.start()


def _moov_end(data: bytes | bytearray) -> int | None:
    at = 0
    while len(data) >= at + LONG_BOX.size:
        size, kind = BOX.unpack_from(data, at)
        if size == 1:
            _, _, size = LONG_BOX.unpack_from(data, at)
        if size < BOX.size or kind in (b"mdat", b"moof"):
            raise Refused("unsupported_media", "the MP4 is not fragmented: send it as a whole file")
        at += size
        if kind == b"moov":
            return at if len(data) >= at else None
    return None
