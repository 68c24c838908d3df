"""A camera's words without a camera: what it answers, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from msgspec.structs import replace

from server.sources.camera import Camera
from server.sources.messages import Pull, Report
from server.sources.outcome import Interrupted
from server.sources.stream import Stream

pytestmark = pytest.mark.unit

URI = "rtsp://camera.example/one"
DESCRIPTION = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
ORDER = Pull(
    scheme="rtsp",
    host="camera.example",
    port=554,
    path="/one",
    user="",
    password="",
    codecs=["h264"],
    unit_bytes=1 << 20,
    memory_bytes=1 << 28,
)


class Script:
    """Answers each request in its turn: a status and headers, with the description where it was asked for."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[str] = []
        self._answers = iter(answers)
        self._out: Iterator[bytes] = iter(())

    def send(self, data: bytes) -> None:
        self.asked.append(data.decode().split(" ")[0])
        body = DESCRIPTION if self.asked[-1] == "DESCRIBE" else b""
        head = f"{next(self._answers)}\r\nCSeq: {len(self.asked)}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._out = iter([f"RTSP/1.0 {head}".encode() + body])

    def receive(self) -> bytes | None:
        return next(self._out, None)


def played(*answers: str, order: Pull = ORDER) -> tuple[Interrupted, list[str], list[Report]]:
    """How a play ended, what was asked, and what was reported."""
    script, reports = Script(*answers), list[Report]()
    camera = Camera(cast(Stream, script), order, URI, reports.append, lambda: None)
    with pytest.raises(Interrupted) as ended:
        camera.run()
    return ended.value, script.asked, reports


@pytest.mark.parametrize(
    "answer",
    [
        "461 Unsupported Transport",
        "200 OK\r\nSession: 7\r\nTransport: RTP/AVP;unicast;client_port=0-1;server_port=6970-6971",
        "200 OK\r\nSession: 7\r\nTransport: RTP/AVP/UDP;multicast;destination=239.1.1.1;port=5000-5001",
    ],
)
def test_a_camera_that_sends_by_udp_alone_is_told_what_it_lacks(answer: str) -> None:
    ended, asked, reports = played("200 OK", "200 OK", answer)
    assert ended.lasting
    assert "RTSP over TCP" in ended.reason
    assert (asked, reports) == (["OPTIONS", "DESCRIBE", "SETUP"], [])


@pytest.mark.parametrize("transport", ["RTP/AVP/TCP;unicast", "RTP/AVP;interleaved=0-1", ""])
def test_a_camera_that_says_little_is_believed(transport: str) -> None:
    set_up = f"200 OK\r\nSession: 7\r\nTransport: {transport}" if transport else "200 OK\r\nSession: 7"
    ended, asked, reports = played("200 OK", "200 OK", set_up, "503 Busy")
    assert (asked[-1], ended.lasting, reports) == ("PLAY", False, [])
    assert "503" in ended.reason


def test_a_camera_without_a_codec_that_is_taken() -> None:
    ended, asked, _ = played("200 OK", "200 OK", order=replace(ORDER, codecs=["jpeg"]))
    assert ended.lasting
    assert "no track of a codec" in ended.reason
    assert asked == ["OPTIONS", "DESCRIBE"]
