from __future__ import annotations

import struct

import pytest

from longlook_client import BadRequestError
from longlook_client._wire import Codec, live_address, pack_chunk, picture_codec

pytestmark = pytest.mark.unit


def test_header_is_sixteen_bytes_in_network_order() -> None:
    message = pack_chunk(Codec.JPEG, 0x0102, 0x03040506, -2, b"payload")
    assert message == bytes.fromhex("0101 0102 03040506 fffffffffffffffe".replace(" ", "")) + b"payload"
    assert struct.unpack("!BBHIq", message[:16]) == (1, 1, 0x0102, 0x03040506, -2)


@pytest.mark.parametrize(
    ("start", "codec"),
    [
        (b"\xff\xd8\xff\xe0rest", Codec.JPEG),
        (b"\x89PNG\r\n\x1a\nrest", Codec.PNG),
        (b"RIFF\x00\x00\x00\x00WEBPrest", Codec.WEBP),
    ],
)
def test_picture_codec_by_first_bytes(start: bytes, codec: Codec) -> None:
    assert picture_codec(start) is codec


def test_other_bytes_are_no_picture() -> None:
    with pytest.raises(BadRequestError, match="neither"):
        picture_codec(b"GIF89a")


def test_live_address_keeps_host_and_prefix() -> None:
    assert live_address("https://h.example/base", "s 1", "t", "2-7") == (
        "wss://h.example/base/v1/live?session=s+1&token=t&last_event_id=2-7"
    )
    assert live_address("http://h:1", "s", None, None) == "ws://h:1/v1/live?session=s"
