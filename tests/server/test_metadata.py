"""What describes a picture is taken off it before Pillow reads it, but for where it is to be turned."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from server.media.jobs import StillCodec
from server.media.metadata import HEAD_BYTES, PARTS, bare, orientation
from server.media.refusals import Refused

pytestmark = pytest.mark.unit

CODECS: list[StillCodec] = ["jpeg", "png", "webp"]
READ_ERRORS = (Refused, struct.error, IndexError, ValueError)


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert(mode).save(out, form, **options)
    return out.getvalue()


def pixels(data: bytes) -> tuple[str, bytes]:
    with Image.open(io.BytesIO(data)) as image:
        return image.mode, image.convert("RGB").tobytes()


def exif_of(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a maker's name that is stored elsewhere in the directory"
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(
    ("codec", "mode", "options"),
    [
        ("jpeg", "RGB", {"comment": b"c" * 3000, "icc_profile": bytes(70_000), "exif": exif_of(3)}),
        ("jpeg", "CMYK", {}),
        ("jpeg", "L", {"progressive": True}),
        ("jpeg", "RGB", {"restart_marker_rows": 1}),
        ("png", "RGB", {"icc_profile": bytes(3000), "exif": exif_of(3)}),
        ("png", "P", {"transparency": 3}),
        ("png", "I;16", {}),
        ("webp", "RGBA", {"exif": exif_of(3)}),
    ],
)
def test_what_is_left_is_the_same_picture(codec: StillCodec, mode: str, options: dict[str, object]) -> None:
    data = encoded(codec, mode, **options)
    assert pixels(bare(codec, data)) == pixels(data)


def test_of_metadata_nothing_is_left() -> None:
    for codec in ("jpeg", "png"):
        left = bare(codec, encoded(codec, exif=exif_of(3), icc_profile=b"PROFILE" * 10_000))
        with Image.open(io.BytesIO(left)) as image:
            assert not image.getexif()
        assert b"PROFILE" not in left
        assert orientation(codec, left) == 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", range(1, 9))
def test_where_a_picture_is_turned_is_read(codec: StillCodec, value: int) -> None:
    assert orientation(codec, encoded(codec, exif=exif_of(value))) == value
    assert orientation(codec, encoded(codec)) == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    tiff = struct.pack(order + "2sHIHHHIHHI", b"II" if order == "<" else b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    assert orientation("png", encoded("png", exif=tiff)) == 6


def test_padding_between_segments_is_passed_over() -> None:
    data = encoded("jpeg")
    at = data.index(b"\xff\xdb")
    padded = data[:at] + b"\x00\x00\xff\xff\xff" + data[at:]
    assert pixels(bare("jpeg", padded)) == pixels(data)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


@pytest.mark.parametrize("codec", CODECS)
def test_a_picture_has_so_many_parts_and_no_more(codec: StillCodec) -> None:
    data = encoded(codec)
    part, at = {
        "jpeg": (b"\xff\xe0\x00\x02", 2),
        "png": (chunk(b"tEXt", b"k\x00v"), 33),
        "webp": (b"junk\x00\x00\x00\x00", len(data)),
    }[codec]
    many = data[:at] + part * (PARTS // 2) + data[at:]
    assert orientation(codec, many) == 1
    assert pixels(bare(codec, many)) == pixels(data)
    with pytest.raises(Refused):
        orientation(codec, data[:at] + part * PARTS + data[at:])


def test_a_jpegs_tables_have_so_many_bytes() -> None:
    """Pillow takes them apart in quadratic time."""
    data = encoded("jpeg")
    table = b"\xff\xdb" + struct.pack("!H", 2 + 65 * 1000) + (b"\x00" + bytes(range(64))) * 1000
    assert pixels(bare("jpeg", data[:2] + table + data[2:])) == pixels(data)
    with pytest.raises(Refused):
        bare("jpeg", data[:2] + table * (HEAD_BYTES // len(table) + 1) + data[2:])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_are_read_or_refused(codec: StillCodec, seed: int) -> None:
    source = random.Random(seed)
    data = bytearray(encoded(codec, exif=exif_of(6)))
    for _ in range(source.randrange(1, 30)):
        data[source.randrange(min(len(data), 200))] = source.randrange(256)
    for candidate in (bytes(data), bytes(data[: source.randrange(300)]), source.randbytes(100), b""):
        try:
            assert len(bare(codec, candidate)) <= max(len(candidate), 8)
            orientation(codec, candidate)
        except READ_ERRORS:
            pass
