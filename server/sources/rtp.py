"""RTP and RTCP packets (RFC 3550): headers, losses, and time stamps that go on past their 32 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass

FIXED = struct.Struct("!BBHII")
SENDER_REPORT, BYE = 200, 203
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class RtpPacket:
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket | None:
    """None for what is no RTP packet."""
    if len(data) < FIXED.size:
        return None
    first, second, sequence, timestamp, ssrc = FIXED.unpack_from(data)
    start = FIXED.size + 4 * (first & 0x0F)
    if first >> 6 != 2:
        return None
    if first & 0x10:  # header extension
        if len(data) < start + 4:
            return None
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    end = len(data) - (data[-1] if first & 0x20 else 0)
    if start > end:
        return None
    return RtpPacket(second & 0x7F, bool(second & 0x80), sequence, timestamp, ssrc, data[start:end])


def says_goodbye(data: bytes) -> bool:
    """Whether a compound RTCP packet holds a BYE."""
    at = 0
    while at + 4 <= len(data) and data[at] >> 6 == 2:
        if data[at + 1] == BYE:
            return True
        at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
    return False


class Sequence:
    """Follows a track's sequence numbers."""

    def __init__(self) -> None:
        self._next: int | None = None

    def lost(self, sequence: int) -> bool:
        """Whether something between the packet before and this one is missing."""
        expected, self._next = self._next, (sequence + 1) & 0xFFFF
        return expected is not None and sequence != expected


class MediaClock:
    """A track's time stamps as microseconds since the stream began to play.

    Args:
        rate: ticks a second.
        zero: the time stamp at which the stream began, as the server told it.
    """

    LONGEST_LEAD_S = 10  # a first packet further than this from ``zero`` shows that the server told nonsense

    def __init__(self, rate: int, zero: int | None) -> None:
        self._rate = rate
        self._zero = zero
        self._last: int | None = None
        self._ticks = 0
        self._start_us = 0

    def media_us(self, timestamp: int, elapsed_us: int) -> int:
        """``elapsed_us``: since the stream began to play, which dates the first packet where the server does not."""
        if self._last is None:
            lead = None if self._zero is None else signed(timestamp - self._zero)
            told = lead is not None and abs(lead) <= self.LONGEST_LEAD_S * self._rate
            self._start_us = lead * MICROSECONDS // self._rate if lead is not None and told else elapsed_us
        else:
            self._ticks += signed(timestamp - self._last)
        self._last = timestamp
        return self._start_us + self._ticks * MICROSECONDS // self._rate


def signed(difference: int) -> int:
    """A difference of 32-bit time stamps as the shorter way round."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)
