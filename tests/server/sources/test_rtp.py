import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.rtp import MediaClock, Sequence, parse_rtp, says_goodbye

pytestmark = pytest.mark.unit


def packet(payload: bytes = b"abc", *, first: int = 0x80, extra: bytes = b"") -> bytes:
    return struct.pack("!BBHII", first, 0xE0, 7, 9, 5) + extra + payload


def test_a_packet() -> None:
    found = parse_rtp(packet())
    assert found is not None
    assert (found.payload_type, found.marker, found.sequence, found.timestamp, found.ssrc) == (96, True, 7, 9, 5)
    assert found.payload == b"abc"


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (packet(first=0x82, extra=bytes(8)), b"abc"),
        (packet(first=0x90, extra=bytes((0xBE, 0xDE, 0, 1)) + bytes(4)), b"abc"),
        (packet(b"abc\x00\x02", first=0xA0), b"abc"),
    ],
)
def test_contributors_extensions_and_padding_are_passed_over(data: bytes, payload: bytes) -> None:
    found = parse_rtp(data)
    assert found is not None
    assert found.payload == payload


@pytest.mark.parametrize(
    "data", [b"", packet()[:11], packet(first=0x40), packet(b"", first=0x8F), packet(b"\xff", first=0xA0)]
)
def test_what_is_no_packet(data: bytes) -> None:
    assert parse_rtp(data) is None


@given(st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    parse_rtp(data)
    says_goodbye(data)


def test_a_goodbye_in_a_compound_packet() -> None:
    report, goodbye = struct.pack("!BBHI", 0x80, 201, 1, 5), struct.pack("!BBHI", 0x81, 203, 1, 5)
    assert says_goodbye(report + goodbye)
    assert not says_goodbye(report)


def test_losses_are_seen_also_where_numbers_begin_anew() -> None:
    sequence = Sequence()
    assert [sequence.lost(number) for number in (65_534, 65_535, 0, 1, 3, 4)] == [
        False,
        False,
        False,
        False,
        True,
        False,
    ]


def test_time_stamps_go_on_past_32_bits() -> None:
    clock = MediaClock(90_000, None)
    start = (1 << 32) - 90_000
    assert clock.media_us(start, 500_000) == 500_000
    assert clock.media_us((start + 90_000) % (1 << 32), 0) == 1_500_000
    assert clock.media_us((start + 180_000) % (1 << 32), 0) == 2_500_000
    assert clock.media_us((start + 135_000) % (1 << 32), 0) == 2_000_000, "pictures come in decoding order"


def test_what_the_server_told_dates_the_first_packet() -> None:
    assert MediaClock(90_000, 1_000).media_us(46_000, 77) == 500_000
    assert MediaClock(90_000, 1_000).media_us(1_000 + 90_000 * 11, 77) == 77, "unless it is nonsense"
