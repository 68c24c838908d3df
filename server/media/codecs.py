"""The elementary video formats that are accepted: which decoder reads them, and where decoding can begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from server.media.jobs import VideoCodec

START_CODE = b"\x00\x00\x01"
NAL_UNITS = 1024  # of one picture: a slice for each row of macroblocks, and some more, is much already
KEY_SCAN_OBUS = KEY_SCAN_NALS = 64  # a temporal unit has a handful


@dataclass(frozen=True)
class VideoFormat:
    """``decoder`` is FFmpeg's name. ``starts``: whether decoding can begin with a unit, given the parameter sets.

    ``parameters``: the parameter sets that a unit holds, None for formats that have none beside their pictures.
    """

    decoder: str
    starts: Callable[[bytes], bool]
    parameters: Callable[[bytes], bytes] | None = None
    annex_b: bool = False


def nal_begins(data: bytes) -> Iterator[int]:
    """Where the first NAL units of an Annex B byte stream begin, after their start codes (ITU-T H.264 and H.265, annex
    B). What decoding begins with comes before most slices of its picture.
    """
    at = 0
    for _ in range(KEY_SCAN_NALS):
        found = data.find(START_CODE, at)
        if found < 0:
            return
        at = found + len(START_CODE)
        if any(data[at : at + 2]):
            yield at


def nal_unit(data: bytes, begin: int) -> bytes:
    """The NAL unit that begins there."""
    end = data.find(START_CODE, begin)
    return data[begin : end if end >= 0 else len(data)].rstrip(b"\x00")


def crowded(data: bytes) -> bool:
    """Whether an Annex B access unit has so many NAL units that taking it apart costs more than decoding does."""
    return data.count(START_CODE) > NAL_UNITS


def obu_types(data: bytes) -> Iterator[int]:
    """Types of the OBUs of a temporal unit in the low-overhead format (AV1 bitstream specification, section 5.3)."""
    at = 0
    for _ in range(KEY_SCAN_OBUS):
        if at >= len(data):
            return
        yield data[at] >> 3 & 0xF
        if not data[at] & 0x02:  # one without a size is the last
            return
        at += 2 if data[at] & 0x04 else 1
        size, shift, more = 0, 0, True
        while more and at < len(data) and shift < 56:
            size |= (data[at] & 0x7F) << shift
            more = bool(data[at] & 0x80)
            at, shift = at + 1, shift + 7
        at += size


def _h264_type(first: int) -> int:
    return first & 0x1F  # ITU-T H.264, table 7-1


def _h265_type(first: int) -> int:
    return first >> 1 & 0x3F  # ITU-T H.265, table 7-1


def _annex_b(type_of: Callable[[int], int], slices: range, keys: range, sets: range, first_set: int) -> VideoFormat:
    """A NAL format by the types of its units: ``keys`` are slices of pictures that build on none, ``sets`` parameter
    sets, which come before the slices: where those end need not be looked for.
    """

    def starts(unit: bytes) -> bool:
        types = (type_of(unit[begin]) for begin in nal_begins(unit))
        return any(kind in keys or kind == first_set for kind in types)

    def parameters(unit: bytes) -> bytes:
        before = takewhile(lambda begin: type_of(unit[begin]) not in slices, nal_begins(unit))
        found = (nal_unit(unit, begin) for begin in before if type_of(unit[begin]) in sets)
        return b"".join(b"\x00\x00\x00\x01" + nal for nal in found)

    return VideoFormat("h264" if type_of is _h264_type else "hevc", starts, parameters, annex_b=True)


def _vp8_starts(frame: bytes) -> bool:
    """RFC 6386, section 9.1: the lowest bit of the frame tag is 0 in key frames, a start code follows."""
    return len(frame) >= 10 and not frame[0] & 1 and frame[3:6] == b"\x9d\x01\x2a"


def _vp9_starts(frame: bytes) -> bool:
    """VP9 bitstream specification, section 6.2: frame_type after marker, profile and show_existing_frame."""
    if len(frame) < 4 or frame[0] >> 6 != 2:
        return False
    reserved = 1 if frame[0] & 0x30 == 0x30 else 0  # profile 3 has one bit more
    show_existing, frame_type = frame[0] >> (3 - reserved) & 1, frame[0] >> (2 - reserved) & 1
    return not show_existing and not frame_type


def _av1_starts(unit: bytes) -> bool:
    return 1 in obu_types(unit)  # OBU_SEQUENCE_HEADER, which comes with each key frame


VIDEO: Mapping[VideoCodec, VideoFormat] = {
    "h264": _annex_b(_h264_type, range(1, 6), range(5, 6), range(7, 9), first_set=7),
    "h265": _annex_b(_h265_type, range(32), range(16, 24), range(32, 35), first_set=33),
    "vp8": VideoFormat("vp8", _vp8_starts),
    "vp9": VideoFormat("vp9", _vp9_starts),
    "av1": VideoFormat("libdav1d", _av1_starts),
}
