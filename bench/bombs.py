"""Media that are small to send and dear to decode, or whose headers state what cannot be."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import av
import numpy as np
from PIL import Image

from bench.samples import Sample

MIB = 1 << 20
BALLOON = 256 * MIB
SIDE = 4_990  # pixels: its square is just within the limit of 25 megapixels


def bombs(side: int = SIDE) -> list[Sample]:
    """Each a sample of its own, of the format that it pretends to be; pictures have ``side`` squared pixels."""
    return [
        *(Sample("png", (data,)) for data in _png_bombs(side)),
        *(Sample("jpeg", (data,)) for data in _jpeg_bombs(side)),
        *(Sample("webp", (data,)) for data in _webp_bombs(side)),
        *(Sample("h264", (data,)) for data in _h264_bombs()),
        *_container_bombs(),
        *_crowds(),
    ]


def _png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the stated header with the chunks given, each with a right checksum."""
    head = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    out = bytearray(b"\x89PNG\r\n\x1a\n")
    for name, body in ((b"IHDR", head), *chunks, (b"IEND", b"")):
        out += struct.pack("!I", len(body)) + name + body + struct.pack("!I", zlib.crc32(name + body))
    return bytes(out)


@cache
def _deflated(count: int) -> bytes:
    """``count`` zero bytes, deflated without ever being in memory at once."""
    packer, zeros = zlib.compressobj(6), bytes(MIB)
    out = b"".join(packer.compress(zeros) for _ in range(count // MIB)) + packer.compress(bytes(count % MIB))
    return out + packer.flush()


def _png_bombs(side: int) -> Iterator[bytes]:
    yield _png(side, side, 8, 2, (b"IDAT", _deflated((3 * side + 1) * side)))
    yield _png(side, side, 16, 6, (b"IDAT", _deflated(MIB)))  # eight bytes a pixel, most of them missing
    yield _png(side, side, 1, 0, (b"IDAT", _deflated((side // 8 + 1) * side)))
    yield _png(2**31 - 1, 2**31 - 1, 8, 2, (b"IDAT", _deflated(MIB)))
    yield _png(64, 64, 8, 2, (b"IDAT", _deflated(BALLOON)))  # far more data than the header asks for
    text = b"comment\x00\x00" + _deflated(BALLOON)
    yield _png(64, 64, 8, 2, (b"zTXt", text), (b"IDAT", _deflated(193 * 64)))
    profile = b"profile\x00\x00" + _deflated(BALLOON)
    yield _png(64, 64, 8, 2, (b"iCCP", profile), (b"IDAT", _deflated(193 * 64)))
    yield _png(64, 64, 8, 2, *[(b"tEXt", b"k\x00v")] * 100_000, (b"IDAT", _deflated(193 * 64)))


def _jpeg_bombs(side: int) -> Iterator[bytes]:
    plain = _jpeg(Image.new("RGB", (side, side)), progressive=False)
    yield plain
    yield _jpeg(Image.new("RGB", (side, side)), progressive=True)
    at = plain.index(b"\xff\xc0") + 5
    yield plain[:at] + struct.pack("!HH", 65_500, 65_500) + plain[at + 4 :]
    yield plain[:at] + struct.pack("!HH", 0, 0) + plain[at + 4 :]
    small = _jpeg(Image.effect_noise((2000, 2000), 60).convert("RGB"), progressive=True)
    last = small.rindex(b"\xff\xda")
    yield small[:-2] + small[last:-2] * (2 * MIB // (len(small) - last)) + b"\xff\xd9"  # the same scan again and again
    flat = _jpeg(Image.new("RGB", (2000, 2000)), progressive=True)
    last = flat.rindex(b"\xff\xda")
    yield flat[:-2] + flat[last:-2] * 500 + b"\xff\xd9"
    yield b"\xff\xd8" + b"\xff" * (4 * MIB)  # nothing but fill bytes
    yield b"\xff\xd8" + b"\xff\xe0\x00\x02" * MIB  # a million empty segments


def _jpeg(image: Image.Image, *, progressive: bool) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50, progressive=progressive)
    return out.getvalue()


def _webp_bombs(side: int) -> Iterator[bytes]:
    for lossless in (True, False):
        out = io.BytesIO()
        Image.new("RGB", (side // 2, side // 2)).save(out, "WEBP", lossless=lossless, method=0, quality=0)
        yield out.getvalue()
    out = io.BytesIO()
    frames = [Image.new("RGB", (600, 600), (n, 0, 0)) for n in range(40)]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], method=0, quality=0)
    yield out.getvalue()
    vp8x = struct.pack("<I", 0) + b"\xff\xff\xff" * 2
    body = b"WEBPVP8X" + struct.pack("<I", len(vp8x)) + vp8x
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def _h264_bombs() -> Iterator[bytes]:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 4096, 4096, "yuv420p"
    context.thread_count = 1
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_ndarray(np.zeros((4096 * 3 // 2, 4096), np.uint8), format="yuv420p")
    frame.pts = 0
    yield b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    sps = bytes.fromhex("0000000167640033ad84010c20086100430802184010c200843b5010001000")
    yield sps + bytes.fromhex("0000000168ee3c80") + b"\x00\x00\x01\x65" + bytes(1000)
    yield b"\x00\x00\x01" * (7 * MIB // 3)  # nothing but start codes
    yield b"\x00\x00\x01\x67" * MIB
    yield b"\x00\x00\x01\x65" + bytes(7 * MIB)


def _crowds() -> Iterator[Sample]:
    """Nothing dear in them, but so many small things that taking them apart is."""
    plain = _jpeg(Image.new("RGB", (64, 64)), progressive=False)
    scan = plain.index(b"\xff\xda")
    yield Sample("jpeg", (plain[:scan] + b"\xff\xe0\x00\x02" * MIB + plain[scan:],))
    entries = b"".join(struct.pack("<HHII", tag, 3, 25_000, 8) for tag in range(0xB000, 0xB000 + 5_000))
    pictures = b"MPF\0" + struct.pack("<2sHIH", b"II", 42, 8, 5_000) + entries  # all of them mean the same 50 kB
    yield Sample("jpeg", (plain[:2] + struct.pack("!HH", 0xFFE2, 2 + len(pictures)) + pictures + plain[2:],))
    yield Sample("png", (_png(64, 64, 8, 2, *[(b"IDAT", b"")] * 300_000, (b"IDAT", _deflated(193 * 64))),))
    yield Sample("pcm", (bytes(7 * MIB),))
    frame = bytes.fromhex("fff15c40012ffc") + bytes.fromhex("0100")  # ADTS, nine bytes in all
    yield Sample("aac", (frame * (MIB // 3),))
    small = struct.pack("!I4s", 8, b"free")
    yield Sample("mp4", (struct.pack("!I4s4s", 12, b"ftyp", b"iso6") + small * (7 * MIB // 8),))


def _container_bombs() -> Iterator[Sample]:
    ftyp = struct.pack("!I4s4sI4s", 20, b"ftyp", b"isom", 512, b"iso6")
    nested = b""
    for _ in range(2000):
        nested = struct.pack("!I4s", 8 + len(nested), b"moov") + nested
    endless = struct.pack("!I4sQ", 1, b"moov", 2**62)
    master = (
        b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 9
    )
    for data in (ftyp + nested, ftyp + endless, ftyp + bytes(MIB), ftyp * 10_000):
        yield Sample("mp4", (data,))
        yield Sample("file", (data,), "video/mp4")
    for data in (master, master + bytes(MIB), master * 10_000):
        yield Sample("webm", (data,))
        yield Sample("file", (data,), "video/webm")
    yield Sample("file", (b"RIFF\xff\xff\xff\xffAVI LIST\xff\xff\xff\xffhdrl" * 1000,), "video/x-msvideo")
    yield Sample("file", (b"G" + bytes(187) + b"G" + bytes(MIB),), "video/mp2t")
    yield Sample("file", ((b"G\x40\x00\x10" + b"\xff" * 184) * 5000,), "video/mp2t")
