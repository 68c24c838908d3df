import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.rtsp import Message, Packet, ProtocolError, Splitter, answer, parameters, request

pytestmark = pytest.mark.unit

STREAM = (
    b"\r\nRTSP/1.0 200 OK\r\nCSeq: 2\r\nWWW-Authenticate: Basic realm=a\r\nWWW-Authenticate: Digest realm=b\r\n"
    b"Content-Length: 4\r\n\r\nv=0\n$\x00\x00\x05hello$\x01\x00\x00OPTIONS * RTSP/1.0\r\nCSeq: 7\r\n\r\n"
)


def parts(chunks: list[bytes]) -> list[Packet | Message]:
    splitter, found = Splitter(), []
    for chunk in chunks:
        splitter.feed(chunk)
        while (part := splitter.next()) is not None:
            found.append(part)
    return found


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_a_stream_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    found = parts([STREAM[a:b] for a, b in itertools.pairwise(ends)])
    response, first, second, asked = found
    assert isinstance(response, Message)
    assert (response.status, response.get("cseq"), response.body) == (200, "2", b"v=0\n")
    assert response.all("www-authenticate") == ["Basic realm=a", "Digest realm=b"]
    assert (first, second) == (Packet(0, b"hello"), Packet(1, b""))
    assert isinstance(asked, Message)
    assert (asked.is_response, asked.method) == (False, "OPTIONS")


@given(st.binary(max_size=300))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    try:
        for part in parts([data, b"RTSP/1.0 "]):
            if isinstance(part, Message) and part.is_response:
                _ = part.status
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"RTSP/1.0 200 OK\r\nX: " + b"a" * (17 << 10),
        b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nX: a\x00b\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nX: a\rb\r\n\r\n",
    ],
)
def test_heads_that_are_too_long_or_hold_control_characters_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parts([data])


def test_a_request() -> None:
    assert request("PLAY", "rtsp://h/x", 3, {"Session": "9"}) == (
        b"PLAY rtsp://h/x RTSP/1.0\r\nCSeq: 3\r\nUser-Agent: Longlook\r\nSession: 9\r\n\r\n"
    )
    assert answer("200 OK", "7") == b"RTSP/1.0 200 OK\r\nCSeq: 7\r\n\r\n"


@pytest.mark.parametrize(
    ("uri", "session"), [("rtsp://h/a b", "1"), ("rtsp://h/\r\nX: y", "1"), ("rtsp://h/", "1\r\nX: y")]
)
def test_what_a_server_said_cannot_break_a_request(uri: str, session: str) -> None:
    with pytest.raises(ProtocolError):
        request("PLAY", uri, 1, {"Session": session})


def test_parameters_of_a_header() -> None:
    told = parameters('RTP/AVP/TCP;unicast;interleaved=0-1;SSRC="1a"; mode = play ;;')
    assert told == {"rtp/avp/tcp": "", "unicast": "", "interleaved": "0-1", "ssrc": "1a", "mode": "play"}
