"""JPEG pictures taken apart as RFC 2435 says, and put together again."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from server.sources.payloads import AccessUnit
from server.sources.pictures import JpegAssembler, quantisers
from server.sources.rtp import RtpPacket

pytestmark = pytest.mark.unit


def encoded(quality: int, subsampling: str = "4:2:0") -> tuple[Image.Image, bytes]:
    image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return image, out.getvalue()


def taken_apart(jpeg: bytes, *, quality: int, kind: int, size: int = 300) -> list[RtpPacket]:
    """Packets of a baseline picture of 64x48."""
    tables = b""
    at = 2
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack_from("!H", jpeg, at + 2)
        if jpeg[at + 1] == 0xDB:
            tables += b"".join(jpeg[n + 1 : n + 65] for n in range(at + 4, at + 2 + length, 65))
        at += 2 + length
    scan = jpeg[at + 2 + struct.unpack_from("!H", jpeg, at + 2)[0] : -2]
    packets = []
    for offset in range(0, len(scan), size):
        head = b"\0" + offset.to_bytes(3, "big") + bytes((kind, quality, 8, 6))
        if quality >= 128 and not offset:
            head += struct.pack("!BBH", 0, 0, len(tables)) + tables
        last = offset + size >= len(scan)
        packets.append(RtpPacket(26, last, 0, 7, 1, head + scan[offset : offset + size]))
    return packets


def assembled(packets: list[RtpPacket], lost: int = -1) -> list[AccessUnit]:
    assembler = JpegAssembler(1 << 20)
    kept = [(number, packet) for number, packet in enumerate(packets) if number != lost]
    return [unit for number, packet in kept for unit in assembler.feed(packet, lost=number == lost + 1 and lost >= 0)]


@pytest.mark.parametrize(("quality", "told"), [(50, 50), (80, 80), (30, 30), (90, 255)])
@pytest.mark.parametrize(("subsampling", "kind"), [("4:2:2", 0), ("4:2:0", 1)])
def test_a_picture_is_what_it_was(quality: int, told: int, subsampling: str, kind: int) -> None:
    _, jpeg = encoded(quality, subsampling)
    (unit,) = assembled(taken_apart(jpeg, quality=told, kind=kind))
    with Image.open(io.BytesIO(unit.data)) as found, Image.open(io.BytesIO(jpeg)) as sent:
        assert max(ImageStat.Stat(ImageChops.difference(found.convert("RGB"), sent.convert("RGB"))).sum) == 0


def test_a_picture_with_a_hole_is_left_out() -> None:
    packets = taken_apart(encoded(90)[1], quality=90, kind=1, size=100)
    assert len(packets) > 3
    for lost in range(len(packets)):
        assert assembled(packets, lost) == []


def test_the_qualities_of_the_rfc_are_those_of_libjpeg() -> None:
    for quality in (10, 50, 75, 99):
        with Image.open(io.BytesIO(encoded(quality)[1])) as image:
            tables = image.quantization  # type: ignore[attr-defined]  # of JPEG files alone
        assert sorted(quantisers(quality)) == sorted([*tables[0], *tables[1]])


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans(), st.booleans()), max_size=8))
def test_any_payloads(payloads: list[tuple[bytes, bool, bool]]) -> None:
    assembler = JpegAssembler(1 << 10)
    for payload, marker, lost in payloads:
        list(assembler.feed(RtpPacket(26, marker, 0, 0, 1, payload), lost=lost))
