"""H.264 (RFC 6184) and H.265 (RFC 7798) out of RTP: access units in Annex B form, with their parameter sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from server.sources.payloads import AccessUnit
from server.sources.rtp import RtpPacket

START = b"\x00\x00\x00\x01"


@dataclass(frozen=True)
class Grammar:
    """How one of the two codecs says things: sizes and types of NAL units, Table 1 and chapter 4 of the RFCs."""

    header_bytes: int
    kind: Callable[[bytes], int]
    aggregates: int
    fragments: int
    keys: frozenset[int]
    parameters: frozenset[int]


H264 = Grammar(1, lambda nal: nal[0] & 0x1F, 24, 28, frozenset({5}), frozenset({7, 8}))
H265 = Grammar(2, lambda nal: nal[0] >> 1 & 0x3F, 48, 49, frozenset(range(16, 22)), frozenset({32, 33, 34}))


class UnitAssembler:
    """Packets in, access units out. What was damaged on the way is left out whole, and told with the next unit.

    Args:
        parameter_sets: NAL units told beside the stream; they go before each key picture that has none of its own.
    """

    def __init__(self, grammar: Grammar, parameter_sets: list[bytes], unit_bytes: int) -> None:
        self._grammar = grammar
        self._parameter_sets = parameter_sets
        self._limit = unit_bytes
        self._nals: list[bytes] = []
        self._size = 0
        self._fragments: list[bytes] | None = None
        self._timestamp: int | None = None
        self._damaged = False
        self._lost = False

    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        """``lost``: packets before this one are missing."""
        if self._timestamp is not None and packet.timestamp != self._timestamp:
            self._damaged |= lost  # whether the end of this unit is missing or the beginning of the next, nobody knows
            yield from self._finish()
        self._timestamp = packet.timestamp
        if lost:
            self._damaged, self._fragments = True, None
        for nal in self._nal_units(packet.payload):
            self._take(nal)
        if packet.marker:
            yield from self._finish()

    def _take(self, nal: bytes) -> None:
        self._size += len(START) + len(nal)
        if self._size > self._limit:
            self._damaged, self._nals, self._fragments = True, [], None
        else:
            self._nals.append(nal)

    def _nal_units(self, payload: bytes) -> Iterator[bytes]:
        grammar = self._grammar
        if len(payload) <= grammar.header_bytes:
            self._damaged = True
            return
        kind = grammar.kind(payload)
        if kind == grammar.aggregates:
            yield from self._aggregated(payload)
        elif kind == grammar.fragments:
            yield from self._fragmented(payload)
        elif kind < grammar.aggregates:
            yield payload
        else:
            self._damaged = True  # interleaved modes, which were not agreed on

    def _aggregated(self, payload: bytes) -> Iterator[bytes]:
        at = self._grammar.header_bytes
        while at + 2 <= len(payload):
            end = at + 2 + int.from_bytes(payload[at : at + 2], "big")
            if end > len(payload) or end - at - 2 < self._grammar.header_bytes:
                self._damaged = True
                return
            yield payload[at + 2 : end]
            at = end

    def _fragmented(self, payload: bytes) -> Iterator[bytes]:
        size = self._grammar.header_bytes
        flags, body = payload[size], payload[size + 1 :]
        if flags & 0x80:
            self._fragments = [self._whole_header(payload, flags)]
        if self._fragments is None:
            self._damaged = True
            return
        self._fragments.append(body)
        if self._size + sum(map(len, self._fragments)) > self._limit:
            self._damaged, self._fragments = True, None
        elif flags & 0x40:
            nal, self._fragments = b"".join(self._fragments), None
            yield nal

    def _whole_header(self, payload: bytes, flags: int) -> bytes:
        """The NAL header that the fragments' headers stand for."""
        if self._grammar.header_bytes == 1:
            return bytes([payload[0] & 0xE0 | flags & 0x1F])
        return bytes([payload[0] & 0x81 | (flags & 0x3F) << 1, payload[1]])

    def _finish(self) -> Iterator[AccessUnit]:
        nals, timestamp = self._nals, self._timestamp
        damaged = self._damaged or self._fragments is not None
        self._nals, self._size, self._fragments, self._damaged, self._timestamp = [], 0, None, False, None
        if damaged:
            self._lost = True
        elif nals and timestamp is not None:
            kinds = {self._grammar.kind(nal) for nal in nals}
            if kinds & self._grammar.keys and not kinds & self._grammar.parameters:
                nals = [*self._parameter_sets, *nals]
            yield AccessUnit(timestamp, b"".join(START + nal for nal in nals), self._lost)
            self._lost = False
