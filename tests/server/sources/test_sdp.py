import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.formats import format_of
from server.sources.sdp import Section, control_uri, parse_description

pytestmark = pytest.mark.unit

CAMERA = b"""v=0\r
o=- 1 1 IN IP4 0.0.0.0\r
s=Media\r
a=control:*\r
m=video 0 RTP/AVP 96\r
a=rtpmap:96 H264/90000\r
a=fmtp:96 packetization-mode=1;profile-level-id=42001F; sprop-parameter-sets=Z0IAH5WoFAFuQA==,aM48gA==\r
a=control:trackID=1\r
m=audio 0 RTP/AVP 0\r
a=control:trackID=2\r
m=audio 0 RTP/AVP 97\r
a=rtpmap:97 MPEG4-GENERIC/16000/2\r
a=fmtp:97 streamtype=5;mode=AAC-hbr;config=1410;sizeLength=13;indexLength=3\r
m=application 0 RTP/AVP 107\r
"""
EVERYTHING = {"h264", "h265", "jpeg", "pcm16", "opus", "aac"}


def test_a_camera_describes_itself() -> None:
    video, law, aac, other = parse_description(CAMERA).sections
    assert (video.encoding, video.clock_rate, video.control) == ("H264", 90_000, "trackID=1")
    assert video.parameter_sets("sprop-parameter-sets") == [
        bytes.fromhex("6742001f95a814016e40"),
        bytes.fromhex("68ce3c80"),
    ]
    assert (law.encoding, law.clock_rate, law.channels, law.control) == ("PCMU", 8_000, 1, "trackID=2")
    assert (aac.encoding, aac.clock_rate, aac.channels, aac.format["config"]) == ("MPEG4-GENERIC", 16_000, 2, "1410")
    taken = [format_of(section, EVERYTHING, 1) for section in (video, law, aac, other)]
    assert [None if found is None else found.info.codec for found in taken] == ["h264", "pcm16", "aac", None]


@given(st.text(alphabet="mavc=: /0123456789;,=H264RTPAP\n", max_size=300))
def test_any_description_is_read(text: str) -> None:
    for section in parse_description(text.encode()).sections:
        format_of(section, EVERYTHING, 1 << 20)


@pytest.mark.parametrize(
    "section",
    [
        Section("video", 96, encoding="VP8", clock_rate=90_000),
        Section("video", 96, encoding="H264", clock_rate=90_000, format={"packetization-mode": "2"}),
        Section("audio", 96, encoding="MPEG4-GENERIC", clock_rate=16_000, format={"config": "zz"}),
        Section(
            "audio", 96, encoding="MPEG4-GENERIC", clock_rate=16_000, format={"config": "0000", "sizelength": "13"}
        ),
        Section("audio", 96, encoding="PCMU", clock_rate=0),
        Section("text", 96, encoding="T140", clock_rate=1_000),
    ],
)
def test_what_cannot_be_taken_is_left_out(section: Section) -> None:
    assert format_of(section, EVERYTHING, 1) is None


def test_what_the_gateway_cannot_have_decoded_is_left_out() -> None:
    video = parse_description(CAMERA).sections[0]
    assert format_of(video, {"jpeg"}, 1) is None


@pytest.mark.parametrize(
    ("base", "control", "whole"),
    [
        ("rtsp://h/s", "trackID=1", "rtsp://h/s/trackID=1"),
        ("rtsp://h/s/", "trackID=1", "rtsp://h/s/trackID=1"),
        ("rtsp://h/s?x=1", "trackID=1", "rtsp://h/s?x=1/trackID=1"),
        ("rtsp://h/s", "rtsp://h/other", "rtsp://h/other"),
        ("rtsp://h/s", "*", "rtsp://h/s"),
        ("rtsp://h/s", "", "rtsp://h/s"),
    ],
)
def test_the_uri_of_a_track(base: str, control: str, whole: str) -> None:
    assert control_uri(base, control) == whole
