"""What surrounds the data of a picture: where it is to be turned, and the picture without all that only describes it.

Pillow reads metadata in Python, in loops whose length a sender would choose; so none of it reaches Pillow. Runs in a
decoder process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from server.media.jobs import StillCodec
from server.media.refusals import Refused

PARTS = 8_192  # segments or chunks of one picture: a PNG of 8 MiB has a thousand, rarely more
HEAD_BYTES = 256 << 10  # of a JPEG before its first scan, without what only describes it: real ones have about one KiB
SCAN = 0xDA  # ITU-T T.81, table B.1, as all JPEG markers here
ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # markers without a length, and an escaped 0xFF
JPEG_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD})  # frames, tables and restarts
JFIF, ADOBE, EXIF = (0xE0, b"JFIF\0"), (0xEE, b"Adobe"), (0xE1, b"Exif\0\0")  # of these, the first two tell the colours
PNG_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})  # W3C PNG, section 5.6
ORIENTATION, SHORT = 0x0112, 3  # EXIF 2.32, section 4.6
DIRECTORY = 512  # entries of an EXIF directory that are looked at
UPRIGHT = 1


def bare(codec: StillCodec, data: bytes) -> bytes:
    """The picture without its metadata; a WebP as it is, whose metadata nothing reads.

    Raises:
        Refused: it has too many parts.
        struct.error, IndexError, ValueError: it ends before its data.
    """
    if codec == "jpeg":
        return _bare_jpeg(data)
    if codec == "png":
        return data[:8] + b"".join(data[begin:end] for kind, begin, end in _chunks(data) if kind in PNG_NEEDED)
    return data


def orientation(codec: StillCodec, data: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where the picture states none. Raises as ``bare`` does."""
    if codec == "jpeg":
        found = ((begin, end) for marker, begin, end in _segments(data) if _is(EXIF, marker, data, begin))
    elif codec == "png":
        found = ((begin + 8, end - 4) for kind, begin, end in _chunks(data) if kind == b"eXIf")
    else:
        found = ((begin + 8, end) for kind, begin, end in _riff_chunks(data) if kind == b"EXIF")
    begin, end = next(found, (0, 0))
    return _stated(data[begin + 4 : end] if codec == "jpeg" else data[begin:end])


def _bare_jpeg(data: bytes) -> bytes:
    kept, size = [data[:2]], 0
    for marker, begin, end in _segments(data):
        if marker == SCAN:
            return b"".join([*kept, data[begin:]])
        if marker in JPEG_NEEDED or _is(JFIF, marker, data, begin) or _is(ADOBE, marker, data, begin):
            kept.append(data[begin:end])
            size += end - begin
            if size > HEAD_BYTES:
                raise Refused("bad_media", f"what a JPEG begins with has at most {HEAD_BYTES} bytes")
    raise Refused("bad_media", "the jpeg holds no scan")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, beginning and end of each segment up to the first scan."""
    at = 2
    for _ in range(PARTS):
        at = data.index(b"\xff", at)  # between segments there may be padding
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in ALONE:
            at += 2
        else:
            (length,) = struct.unpack_from("!H", data, at + 2)
            end = at + 2 + max(length, 2)
            yield marker, at, end
            if marker == SCAN:
                return
            at = end
    raise Refused("bad_media", "the jpeg has too many segments before its first scan")


def _is(sign: tuple[int, bytes], marker: int, data: bytes, begin: int) -> bool:
    return marker == sign[0] and data.startswith(sign[1], begin + 4)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of each chunk of a PNG, the last perhaps cut short."""
    at = 8
    for _ in range(PARTS):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from("!I4s", data, at)
        end = at + 12 + length
        yield kind, at, end
        at = end
    raise Refused("bad_media", f"a png has at most {PARTS} chunks")


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The same of a WebP (RFC 9649, section 2.3), without padding."""
    at = 12
    for _ in range(PARTS):
        if at + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, at, at + 8 + length
        at += 8 + length + length % 2
    raise Refused("bad_media", f"a webp has at most {PARTS} chunks")


def _stated(exif: bytes) -> int:
    tiff = exif.removeprefix(EXIF[1])
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "4xI", tiff)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for place in range(min(count, DIRECTORY)):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * place)
            if tag == ORIENTATION and kind == SHORT:
                return int(value)
    except struct.error:
        pass  # it ends before that
    return UPRIGHT
