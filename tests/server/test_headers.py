import io
import random
import struct
from typing import Any

import pytest
from PIL import Image

from protocol.errors import BadMedia
from server.media.headers import picture_size, sniff_file, sniff_still
from server.media.jobs import StillCodec

pytestmark = pytest.mark.unit

CODECS: list[StillCodec] = ["jpeg", "png", "webp"]


def encoded(form: str, size: tuple[int, int], **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 30).convert("RGB").save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3, 1000), (1920, 1080)])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("jpeg", {"exif": b"Exif\0\0" + bytes(5000), "comment": b"c" * 3000}),
        ("png", {}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"exif": b"Exif\0\0" + bytes(100)}),
    ],
)
def test_sizes_are_read_from_headers(codec: StillCodec, options: dict[str, object], size: tuple[int, int]) -> None:
    data = encoded(codec, size, **options)
    assert picture_size(codec, data) == size
    assert sniff_still(data) == codec


@pytest.mark.parametrize("codec", CODECS)
def test_any_beginning_of_a_picture_is_read_or_refused(codec: StillCodec) -> None:
    data = encoded(codec, (64, 48))
    for length in range(min(len(data), 700)):
        try:
            assert picture_size(codec, data[:length]) == (64, 48)
        except BadMedia:
            pass


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", range(300))
def test_any_bytes_are_read_or_refused(codec: StillCodec, seed: int) -> None:
    source = random.Random(seed)
    data = bytearray(encoded(codec, (16, 16)))
    for _ in range(source.randrange(1, 30)):
        data[source.randrange(min(len(data), 64))] = source.randrange(256)
    for candidate in (bytes(data), source.randbytes(100)):
        try:
            width, height = picture_size(codec, candidate)
            assert width > 0
            assert height > 0
        except BadMedia:
            pass


def test_a_bomb_is_seen_by_its_header() -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack("!I4sII", 13, b"IHDR", 60_000, 60_000)
    assert picture_size("png", bomb) == (60_000, 60_000)


@pytest.mark.parametrize("codec", CODECS)
def test_another_codec_is_refused(codec: StillCodec) -> None:
    for other in CODECS:
        if other != codec:
            with pytest.raises(BadMedia):
                picture_size(codec, encoded(other, (8, 8)))


class CountedBytes(bytes):
    looks = 0

    def __getitem__(self, key: Any) -> Any:
        type(self).looks += 1
        return super().__getitem__(key)


def test_a_jpeg_of_nothing_but_fill_bytes_is_not_read_to_its_end() -> None:
    with pytest.raises(BadMedia):
        picture_size("jpeg", CountedBytes(b"\xff\xd8" + b"\xff" * 50_000))
    assert 0 < CountedBytes.looks < 5_000


def test_files_are_told_by_their_beginnings() -> None:
    assert sniff_file(b"\0\0\0\x20ftypisom") == "mp4"
    assert sniff_file(b"\x1a\x45\xdf\xa3....") == "matroska"
    assert sniff_file(b"RIFF....AVI ") == "avi"
    assert sniff_file(b"\x47" + bytes(187) + b"\x47") == "mpegts"
    assert sniff_file(b"#EXTM3U\nfile:///etc/passwd") is None
    assert sniff_file(b"ffconcat version 1.0") is None
    assert sniff_file(b"") is None
