"""FFmpeg's encoders for the video formats that are accepted, as a live sender uses them: for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av

from bench.priority import usual_priority


@dataclass(frozen=True)
class Encoder:
    """FFmpeg's name of it, and the options with which each picture comes out at once."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


ENCODERS: Mapping[str, Encoder] = {
    "h264": Encoder("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    "h265": Encoder(
        "libx265",
        {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x265-params": "log-level=none:pools=none:bframes=0:repeat-headers=1",
        },
    ),
    "vp8": Encoder("libvpx", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "vp9": Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "av1": Encoder("libsvtav1", {"preset": "12", "crf": "25", "svtav1-params": "pred-struct=1:lookahead=0:lp=1"}),
}
FINE = 500_000  # bits a second: AV1's encoder has none for streams without delay, but two qualities


@usual_priority()
def encoded(
    codec: str,
    frames: Iterable[av.VideoFrame],
    *,
    size: tuple[int, int],
    rate: int,
    key_every: int,
    bit_rate: int = 1_000_000,
    options: Mapping[str, str] | None = None,
) -> list[bytes]:
    """The frames' access units, in decoding order.

    Args:
        codec: a name of ``ENCODERS``.
        size: width and height in pixels.
        rate: pictures a second, of which the frames' ``pts`` counts.
        bit_rate: bits a second.
        options: in place of the encoder's own.
    """
    encoder = ENCODERS[codec]
    context = av.CodecContext.create(encoder.name, "w")
    assert isinstance(context, av.VideoCodecContext)  # noqa: S101 - all encoders of the table are
    (context.width, context.height), context.pix_fmt = size, "yuv420p"
    context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
    context.gop_size, context.thread_count = key_every, 1
    chosen = dict(encoder.options if options is None else options)
    if codec == "av1":
        chosen["crf"] = "25" if bit_rate > FINE else "45"
    else:
        context.bit_rate = bit_rate
    context.options = chosen
    packets = [packet for frame in frames for packet in context.encode(frame)]
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]
