"""Sound out of RTP: G.711 and L16 (RFC 3551) become PCM, Opus (RFC 7587) and AAC (RFC 3640) stay as they are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from sys import byteorder

from server.sources.payloads import AccessUnit
from server.sources.rtp import RtpPacket

PIECE_S = 0.1  # packets of 20 ms are put together: each piece is a message of its own from here on
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)


def mu_law(code: int) -> int:
    """One sample of G.711 mu-law as a signed 16-bit one."""
    code = ~code & 0xFF
    magnitude = ((code & 0x0F) << 3 | 0x84) << (code >> 4 & 7)
    return (0x84 - magnitude) if code & 0x80 else (magnitude - 0x84)


def a_law(code: int) -> int:
    """One sample of G.711 A-law as a signed 16-bit one."""
    code ^= 0x55
    exponent, mantissa = code >> 4 & 7, code & 0x0F
    magnitude = (mantissa << 4 | 8) if not exponent else (mantissa << 4 | 0x108) << (exponent - 1)
    return magnitude if code & 0x80 else -magnitude


def companded(law: Callable[[int], int]) -> Callable[[bytes], bytes]:
    """Bytes of a G.711 law to s16le."""
    table = [law(code).to_bytes(2, "little", signed=True) for code in range(256)]
    return lambda data: b"".join([table[code] for code in data])


def big_endian(data: bytes) -> bytes:
    """L16's samples to s16le."""
    samples = array("h", data[: len(data) & ~1])
    samples.byteswap()
    if byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


class PcmAssembler:
    """Samples, put together to pieces of 100 ms that begin anew where packets are missing."""

    def __init__(self, convert: Callable[[bytes], bytes], rate: int, channels: int) -> None:
        self._convert = convert
        self._piece_bytes = round(PIECE_S * rate) * channels * 2
        self._timestamp = 0
        self._samples = bytearray()

    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        if lost and self._samples:
            yield self._piece()
        if not self._samples:
            self._timestamp = packet.timestamp
        self._samples += self._convert(packet.payload)
        if len(self._samples) >= self._piece_bytes:
            yield self._piece()

    def _piece(self) -> AccessUnit:
        data, self._samples = bytes(self._samples), bytearray()
        return AccessUnit(self._timestamp, data)


class OpusAssembler:
    """One packet is one access unit."""

    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        if packet.payload:
            yield AccessUnit(packet.timestamp, packet.payload, lost)


class AacAssembler:
    """Access units of the modes AAC-hbr and AAC-lbr, whole or in fragments, each behind an ADTS header.

    Args:
        config: AudioSpecificConfig (ISO/IEC 14496-3).
        size_bits, index_bits: of an access unit's header, as the description tells them.
    """

    def __init__(self, config: bytes, size_bits: int, index_bits: int) -> None:
        self._header = _AdtsHeader(config)
        self._size_bits, self._index_bits = size_bits, index_bits
        self._fragments = bytearray()

    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        if lost:
            self._fragments.clear()
        sizes, data = self._sizes(packet.payload)
        if len(sizes) == 1 and sizes[0] > len(data):
            self._fragments += data
            if len(self._fragments) < sizes[0]:
                return
            data = bytes(self._fragments[: sizes[0]])
            self._fragments.clear()
        at = 0
        for number, size in enumerate(sizes):
            unit = data[at : at + size]
            if len(unit) == size and size:
                timestamp = (packet.timestamp + number * 1024) & 0xFFFFFFFF
                yield AccessUnit(timestamp, self._header.of(size) + unit, lost and not number)
            at += size

    def _sizes(self, payload: bytes) -> tuple[list[int], bytes]:
        width = self._size_bits + self._index_bits
        bits = int.from_bytes(payload[:2], "big")
        end = 2 + (bits + 7) // 8
        headers = int.from_bytes(payload[2:end], "big") >> (-bits % 8)
        if width <= 0 or len(payload) < end:
            return [], b""
        count = bits // width
        sizes = [
            headers >> (bits - (n + 1) * width + self._index_bits) & ((1 << self._size_bits) - 1) for n in range(count)
        ]
        return sizes, payload[end:]


class _AdtsHeader:
    """ISO/IEC 13818-7, 6.2: says in front of each access unit what the configuration says once.

    Raises:
        ValueError: a configuration that such a header cannot say.
    """

    def __init__(self, config: bytes) -> None:
        bits = int.from_bytes(config[:2].ljust(2, b"\0"), "big")
        kind, rate, channels = bits >> 11, bits >> 7 & 15, bits >> 3 & 15
        if not 1 <= kind <= 4 or rate >= len(AAC_RATES) or not 1 <= channels <= 7:
            raise ValueError("a form of AAC that is not taken")
        self._profile, self._rate, self._channels = kind - 1, rate, channels

    def of(self, size: int) -> bytes:
        whole = size + 7
        fields = self._profile << 14 | self._rate << 10 | self._channels << 6
        return bytes(
            [
                0xFF,
                0xF1,
                fields >> 8 & 0xFF,
                fields & 0xC0 | whole >> 11 & 3,
                whole >> 3 & 0xFF,
                (whole & 7) << 5 | 0x1F,
                0xFC,
            ]
        )
