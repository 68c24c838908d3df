"""Picture headers read in plain Python, so that a bomb of pixels is refused before any decoder sees it."""

from __future__ import annotations

import struct

from protocol.errors import BadMedia
from server.media.jobs import StillCodec

MAX_SEGMENTS = 512  # a real JPEG has a few dozen; the bound keeps hostile ones from costing time
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81 table B.1: SOF0..15 without DHT, JPG, DAC


def picture_size(codec: StillCodec, data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header states them.

    Raises:
        BadMedia: the bytes do not begin like a picture of ``codec``.
    """
    try:
        width, height = {"jpeg": _jpeg_size, "png": _png_size, "webp": _webp_size}[codec](data)
    except (struct.error, IndexError):
        raise BadMedia(f"the {codec} header is cut short") from None
    if width < 1 or height < 1:
        raise BadMedia(f"the {codec} header states a size of {width}x{height}")
    return width, height


def sniff_still(data: bytes) -> StillCodec | None:
    """The picture codec that ``data`` begins like, if any."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def sniff_file(data: bytes) -> str | None:
    """FFmpeg's name of the demuxer for a file that begins with ``data``, if it is one that is accepted."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        return "avi" if data[8:12] == b"AVI " else "wav"
    if data[:1] == b"\x47" and data[188:189] == b"\x47":
        return "mpegts"
    if data.startswith(b"OggS"):
        return "ogg"
    return None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(b"\xff\xd8"):
        raise BadMedia("not a JPEG picture")
    at = 2
    for _ in range(MAX_SEGMENTS):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in JPEG_FRAMES:
            height, width = struct.unpack_from("!HH", data, at + 5)
            return width, height
        else:
            (length,) = struct.unpack_from("!H", data, at + 2)
            at += 2 + max(length, 2)
    raise BadMedia("the jpeg header states no size")


def _png_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        raise BadMedia("not a PNG picture")
    width, height = struct.unpack_from("!II", data, 16)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise BadMedia("not a WebP picture")
    form = data[12:16]
    if form == b"VP8X":  # extended: 24-bit width and height, minus one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30].ljust(3, b"\0"), "little")
    if form == b"VP8L" and data[20] == 0x2F:  # lossless: two 14-bit fields, minus one
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if form == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # lossy: the key frame's start code, then 14-bit fields
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadMedia("the webp header states no size")
