from __future__ import annotations

import io
from fractions import Fraction
from typing import cast

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.payloads import Assembler
from server.sources.rtp import RtpPacket
from server.sources.sounds import AacAssembler, OpusAssembler, PcmAssembler, a_law, big_endian, companded, mu_law

pytestmark = pytest.mark.unit


def packet(payload: bytes, timestamp: int = 0) -> RtpPacket:
    return RtpPacket(0, True, 0, timestamp, 1, payload)


@pytest.mark.parametrize(("codec", "law"), [("pcm_mulaw", mu_law), ("pcm_alaw", a_law)])
def test_g711_is_decoded_as_ffmpeg_decodes_it(codec: str, law: object) -> None:
    context = cast(av.AudioCodecContext, av.CodecContext.create(codec, "r"))
    context.sample_rate, context.layout = 8_000, "mono"
    (frame,) = context.decode(av.Packet(bytes(range(256))))
    assert companded(law)(bytes(range(256))) == frame.to_ndarray().astype("<i2").tobytes()  # type: ignore[arg-type]


def test_l16_comes_in_network_order() -> None:
    assert big_endian(bytes.fromhex("0102fffe")) == bytes.fromhex("0201feff")


def test_short_packets_are_put_together_to_100_ms() -> None:
    assembler = PcmAssembler(bytes, 8_000, 1)
    units = [unit for n in range(12) for unit in assembler.feed(packet(bytes(320), n * 160), lost=False)]
    assert [(unit.timestamp, len(unit.data)) for unit in units] == [(0, 1600), (800, 1600)]


def test_a_piece_begins_anew_where_packets_are_missing() -> None:
    assembler = PcmAssembler(bytes, 8_000, 1)
    assert list(assembler.feed(packet(bytes(320), 0), lost=False)) == []
    (before,) = assembler.feed(packet(bytes(320), 480), lost=True)
    assert (before.timestamp, len(before.data)) == (0, 320)


def test_opus_stays_as_it_is() -> None:
    (unit,) = OpusAssembler().feed(packet(b"opus", 960), lost=True)
    assert (unit.timestamp, unit.data, unit.lost) == (960, b"opus", True)
    assert list(OpusAssembler().feed(packet(b""), lost=False)) == []


def aac() -> tuple[bytes, list[bytes]]:
    """AudioSpecificConfig and access units of a tone."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = 16_000, "mono", "fltp"
    context.time_base = Fraction(1, 16_000)
    tone = np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    units: list[bytes] = []
    for n in range(15):
        frame = av.AudioFrame.from_ndarray(tone[None, n * 1024 : n * 1024 + 1024], "fltp", "mono")
        frame.sample_rate, frame.pts = 16_000, n * 1024
        units += [bytes(item) for item in context.encode(frame)]
    return bytes(context.extradata or b""), units


def headed(units: list[bytes], sizes: list[int] | None = None) -> bytes:
    headers = b"".join((size << 3).to_bytes(2, "big") for size in sizes or map(len, units))
    return (8 * len(headers)).to_bytes(2, "big") + headers + b"".join(units)


def test_aac_comes_out_as_adts_that_decodes() -> None:
    config, units = aac()
    assembler: Assembler = AacAssembler(config, 13, 3)
    packets = [packet(headed(units[n : n + 2]), n * 1024) for n in range(0, len(units), 2)]
    found = [unit for item in packets for unit in assembler.feed(item, lost=False)]
    assert [unit.timestamp for unit in found] == [n * 1024 for n in range(len(units))]
    with av.open(io.BytesIO(b"".join(unit.data for unit in found)), "r", format="aac") as container:
        samples = sum(frame.samples for frame in container.decode(audio=0) if isinstance(frame, av.AudioFrame))
    assert samples == len(units) * 1024


def test_aac_in_fragments() -> None:
    config, units = aac()
    unit, assembler = units[3], AacAssembler(config, 13, 3)
    first, second = (headed([part], [len(unit)]) for part in (unit[:50], unit[50:]))
    assert list(assembler.feed(packet(first), lost=False)) == []
    (found,) = assembler.feed(packet(second), lost=False)
    assert found.data[7:] == unit
    list(assembler.feed(packet(first), lost=False))
    assert list(assembler.feed(packet(second), lost=True)) == []


@given(st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=6), st.integers(0, 16), st.integers(0, 8))
def test_any_payloads(payloads: list[tuple[bytes, bool]], size_bits: int, index_bits: int) -> None:
    assemblers: list[Assembler] = [
        AacAssembler(bytes.fromhex("1408"), size_bits, index_bits),
        PcmAssembler(big_endian, 8_000, 1),
        OpusAssembler(),
    ]
    for assembler in assemblers:
        for payload, lost in payloads:
            list(assembler.feed(packet(payload), lost=lost))
