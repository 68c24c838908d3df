"""Where init segments end and fragments begin, in bytes of any kind."""

from __future__ import annotations

import struct

import pytest

from server.media.codecs import KEY_SCAN_NALS, VIDEO, nal_begins, nal_unit
from server.media.preambles import BOXES, CLUSTER, EBML, fragment_start, preamble_end
from server.media.refusals import Refused

pytestmark = pytest.mark.unit

FTYP = struct.pack("!I4s4s", 12, b"ftyp", b"iso6")
MOOV = struct.pack("!I4s", 24, b"moov") + bytes(16)
MOOF = struct.pack("!I4sI4s", 100, b"moof", 16, b"mfhd")


def test_an_init_segment_ends_with_its_moov_or_before_the_first_cluster() -> None:
    assert preamble_end("mp4", FTYP + MOOV + MOOF) == len(FTYP + MOOV)
    assert preamble_end("mp4", FTYP + MOOV[:-1]) is None
    assert preamble_end("webm", EBML + bytes(30) + CLUSTER) == 34
    assert preamble_end("webm", EBML + bytes(30)) is None
    with pytest.raises(Refused):
        preamble_end("mp4", FTYP + struct.pack("!I4s", 8, b"mdat") + bytes(20))


def test_a_stream_of_nothing_but_small_boxes_is_not_read_to_its_end() -> None:
    small = struct.pack("!I4s", 8, b"free")
    assert preamble_end("mp4", FTYP + small * (BOXES - 2) + MOOV) == 12 + 8 * (BOXES - 2) + 24
    with pytest.raises(Refused, match="boxes"):
        preamble_end("mp4", FTYP + small * BOXES + MOOV)


def test_a_fragment_is_found_wherever_it_begins() -> None:
    for before in (0, 1, 50):
        assert fragment_start("mp4", bytes(before) + MOOF) == before
        assert fragment_start("webm", bytes(before) + CLUSTER) == before
    assert fragment_start("mp4", MOOF[4:]) is None
    assert fragment_start("mp4", MOOF[:-1]) is None
    assert fragment_start("webm", bytes(50)) is None


def nal_units(stream: bytes) -> list[bytes]:
    return [nal_unit(stream, begin) for begin in nal_begins(stream)]


def test_nal_units_are_told_apart_without_their_start_codes() -> None:
    stream = b"\x00\x00\x00\x01\x67abc\x00\x00\x01\x68d\x00\x00\x00\x01\x65\x00\x01"
    assert nal_units(stream) == [b"\x67abc", b"\x68d", b"\x65\x00\x01"]
    assert nal_units(b"no start code") == []
    assert nal_units(b"\x00\x00\x01" * 100_000) == []
    assert len(nal_units(b"\x00\x00\x01\x65" * 1000)) == KEY_SCAN_NALS


def test_parameter_sets_are_those_before_the_slices() -> None:
    for codec, head, slice_, late in (
        ("h264", b"\x67a", b"\x65b", b"\x68c"),
        ("h265", b"\x42\x01", b"\x26\x01", b"\x44\x01"),
    ):
        form = VIDEO[codec]  # type: ignore[index]
        code = b"\x00\x00\x00\x01"
        unit = code + b"\x00\x00\x01" + head + code + slice_ + code + late
        assert form.parameters is not None
        assert form.parameters(unit) == code + head
        assert form.parameters(code + slice_) == b""
        assert form.starts(unit)
        assert form.starts(code + slice_)
        assert not form.starts(code + late)
