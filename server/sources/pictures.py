"""JPEG out of RTP (RFC 2435): scan data in fragments, to which the headers that are left out are given back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from server.sources.payloads import AccessUnit
from server.sources.rtp import RtpPacket

# Quantisers of quality 50 in zigzag order, and the DHT segments of the tables that RFC 2435 prescribes (ITU-T T.81,
# annex K).
LUMA = bytes.fromhex(
    "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d51575f62"
    "6768673e4d71797064785c656763"
)
CHROMA = bytes.fromhex(
    "1112121815182f1a1a2f63423842636363636363636363636363636363636363636363636363636363636363636363636363"
    "6363636363636363636363636363"
)
HUFFMAN = bytes.fromhex(
    "ffc4001f0000010501010101010100000000000000000102030405060708090a0bffc400b510000201030302040305050404"
    "0000017d01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a2526"
    "2728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83848586878889"
    "8a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4"
    "e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffc4001f0100030101010101010101010000000000000102030405060708090a0bff"
    "c400b51100020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1c1092333"
    "52f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768"
    "696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5"
    "c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)

RESTARTS = 64  # types from here on have a restart header
OWN_TABLES = 128  # qualities from here on bring their own quantisers


@dataclass(frozen=True)
class _Header:
    """Of a packet: what it says of the picture, and where its fragment goes."""

    offset: int
    kind: int
    quality: int
    width: int
    height: int
    restart: int
    quantisers: bytes
    scan: bytes


def _parse(payload: bytes) -> _Header | None:
    if len(payload) < 8:
        return None
    offset = int.from_bytes(payload[1:4], "big")
    kind, quality, width, height = payload[4:8]
    at, restart, quantisers = 8, 0, b""
    if RESTARTS <= kind < 128:
        restart = int.from_bytes(payload[at : at + 2], "big")
        at += 4
    if quality >= OWN_TABLES and not offset:
        if len(payload) < at + 4 or payload[at + 1]:  # 16-bit quantisers are not baseline
            return None
        size = int.from_bytes(payload[at + 2 : at + 4], "big")
        quantisers = payload[at + 4 : at + 4 + size]
        at += 4 + size
    if kind & 0x3F > 1 or kind >= 128 or not (width and height and quality) or len(payload) < at:
        return None
    return _Header(offset, kind, quality, 8 * width, 8 * height, restart, quantisers, payload[at:])


class JpegAssembler:
    """Pictures that came whole; of the others nothing is told."""

    def __init__(self, unit_bytes: int) -> None:
        self._limit = unit_bytes
        self._first: _Header | None = None
        self._scan = bytearray()
        self._timestamp = 0
        self._tables: dict[int, bytes] = {}

    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        header = _parse(packet.payload)
        if lost or header is None or packet.timestamp != self._timestamp:
            self._first = None
        if header is None:
            return
        if not header.offset:
            self._first, self._scan, self._timestamp = header, bytearray(), packet.timestamp
            if len(header.quantisers) == 128:
                self._tables[header.quality] = header.quantisers
        if self._first is None or header.offset != len(self._scan) or header.offset > self._limit:
            self._first = None
            return
        self._scan += header.scan
        if packet.marker:
            first, self._first = self._first, None
            tables = self._tables.get(first.quality, b"") if first.quality >= OWN_TABLES else quantisers(first.quality)
            if tables:
                yield AccessUnit(packet.timestamp, _whole(first, tables, bytes(self._scan)))


def quantisers(quality: int) -> bytes:
    """Both tables of a quality from 1 to 99, RFC 2435, appendix A."""
    quality = min(max(quality, 1), 99)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return bytes(min(max((step * scale + 50) // 100, 1), 255) for step in LUMA + CHROMA)


def _whole(header: _Header, tables: bytes, scan: bytes) -> bytes:
    sampling = 0x21 if not header.kind & 1 else 0x22
    restart = struct.pack("!HHH", 0xFFDD, 4, header.restart) if header.restart else b""
    frame = struct.pack("!HHBHHB", 0xFFC0, 17, 8, header.height, header.width, 3)
    return b"".join(
        (
            b"\xff\xd8",
            *(struct.pack("!HHB", 0xFFDB, 67, n) + tables[64 * n : 64 * n + 64] for n in (0, 1)),
            restart,
            frame + bytes((1, sampling, 0, 2, 0x11, 1, 3, 0x11, 1)),
            HUFFMAN,
            struct.pack("!HHB", 0xFFDA, 12, 3) + bytes((1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0)),
            scan,
            b"" if scan.endswith(b"\xff\xd9") else b"\xff\xd9",
        )
    )
