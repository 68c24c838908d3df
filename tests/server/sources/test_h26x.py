"""Access units cut into packets by the RFCs' rules, and put together again."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.h26x import H264, H265, START, Grammar, UnitAssembler
from server.sources.payloads import AccessUnit
from server.sources.rtp import RtpPacket

pytestmark = pytest.mark.unit

SPS, PPS, IDR, SLICE = b"\x67sps", b"\x68pps", b"\x65" + bytes(range(1, 200)), b"\x41" + bytes(range(1, 100))
LIMIT = 4096


def whole(*nals: bytes) -> bytes:
    return b"".join(START + nal for nal in nals)


def packet(payload: bytes, timestamp: int = 0, *, marker: bool = False) -> RtpPacket:
    return RtpPacket(96, marker, 0, timestamp, 1, payload)


def fragments(nal: bytes, size: int, grammar: Grammar = H264) -> list[bytes]:
    """FU-A of RFC 6184 or FU of RFC 7798."""
    body = nal[grammar.header_bytes :]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if grammar is H264:
        head, kind = bytes([nal[0] & 0xE0 | 28]), nal[0] & 0x1F
    else:
        head, kind = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[0] >> 1 & 0x3F
    last = len(pieces) - 1
    return [head + bytes([(n == 0) << 7 | (n == last) << 6 | kind]) + piece for n, piece in enumerate(pieces)]


def aggregate(*nals: bytes, head: bytes = b"\x78") -> bytes:
    return head + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def assembled(
    assembler: UnitAssembler, packets: list[RtpPacket], lost: frozenset[int] = frozenset()
) -> list[AccessUnit]:
    kept = [(number, item) for number, item in enumerate(packets) if number not in lost]
    return [unit for number, item in kept for unit in assembler.feed(item, lost=number - 1 in lost)]


def stream(count: int, size: int) -> Iterator[RtpPacket]:
    """A key picture and ``count`` others, each in fragments."""
    for number in range(count + 1):
        pieces = fragments(IDR if not number else SLICE, size)
        for at, piece in enumerate(pieces):
            yield packet(piece, number * 3000, marker=at == len(pieces) - 1)


def test_single_aggregated_and_fragmented_units() -> None:
    pieces = [packet(piece, 5) for piece in fragments(IDR, 50)]
    packets = [packet(aggregate(SPS, PPS), 5), *pieces, packet(SLICE, 5, marker=True)]
    assert assembled(UnitAssembler(H264, [], LIMIT), packets) == [AccessUnit(5, whole(SPS, PPS, IDR, SLICE))]


def test_a_unit_ends_with_its_time_stamp_where_no_marker_comes() -> None:
    packets = [packet(IDR, 1), packet(SLICE, 2), packet(SLICE, 3)]
    assert [unit.timestamp for unit in assembled(UnitAssembler(H264, [], LIMIT), packets)] == [1, 2]


def test_parameter_sets_told_beside_the_stream_go_before_key_pictures() -> None:
    assembler = UnitAssembler(H264, [SPS, PPS], LIMIT)
    packets = [
        packet(IDR, 1, marker=True),
        packet(SLICE, 2, marker=True),
        packet(aggregate(SPS, PPS, IDR), 3, marker=True),
    ]
    assert [unit.data for unit in assembled(assembler, packets)] == [
        whole(SPS, PPS, IDR),
        whole(SLICE),
        whole(SPS, PPS, IDR),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_units_come_whole_or_not_at_all(seed: int) -> None:
    packets = [*stream(6, 40), packet(SPS, 7 * 3000), packet(SLICE, 7 * 3000, marker=True)]
    lost = frozenset(random.Random(seed).sample(range(len(packets) - 3), 3))
    suspect = {packets[number].timestamp for at in lost for number in (at, at + 1)}
    units = assembled(UnitAssembler(H264, [], LIMIT), packets, lost)
    complete = [item.timestamp for item in packets if item.marker]
    assert [unit.timestamp for unit in units] == [stamp for stamp in complete if stamp not in suspect]
    assert all(unit.data in (whole(IDR), whole(SLICE), whole(SPS, SLICE)) for unit in units)
    before = -1
    for unit in units:
        assert unit.lost == any(before < stamp < unit.timestamp for stamp in suspect)
        before = unit.timestamp


def test_a_unit_whose_end_is_missing_is_left_out() -> None:
    packets = [
        packet(SPS, 0),
        packet(IDR, 0, marker=True),
        packet(SLICE, 1, marker=True),
        packet(SLICE, 2, marker=True),
    ]
    units = assembled(UnitAssembler(H264, [], LIMIT), packets, frozenset({1}))
    assert [(unit.timestamp, unit.lost) for unit in units] == [(2, True)]


def test_what_is_too_large_is_left_out_and_told() -> None:
    packets = [*stream(1, 40), packet(IDR, 9000, marker=True)]
    units = assembled(UnitAssembler(H264, [], 150), packets)
    assert [(unit.timestamp, unit.lost) for unit in units] == [(3000, True)]


def test_h265() -> None:
    vps, sps, pps = b"\x40\x01v", b"\x42\x01s", b"\x44\x01p"
    idr, trail = b"\x26\x01" + bytes(range(1, 100)), b"\x02\x01" + bytes(range(1, 50))
    packets = [
        *(packet(piece, 1) for piece in fragments(idr, 30, H265)),
        packet(trail, 2, marker=True),
        packet(aggregate(vps, sps, pps, idr, head=b"\x60\x01"), 3, marker=True),
    ]
    units = assembled(UnitAssembler(H265, [vps, sps, pps], LIMIT), packets)
    assert [unit.data for unit in units] == [whole(vps, sps, pps, idr), whole(trail), whole(vps, sps, pps, idr)]


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2), st.booleans(), st.booleans()), max_size=12))
def test_any_payloads(payloads: list[tuple[bytes, int, bool, bool]]) -> None:
    for grammar in (H264, H265):
        assembler = UnitAssembler(grammar, [SPS], 64)
        for payload, timestamp, marker, lost in payloads:
            for unit in assembler.feed(packet(payload, timestamp, marker=marker), lost=lost):
                assert len(unit.data) <= 64 + len(whole(SPS))
