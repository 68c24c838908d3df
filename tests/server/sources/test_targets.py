import pytest

from protocol.errors import BadRequest
from server.sources.targets import parse_target

pytestmark = pytest.mark.unit


def test_a_url_in_its_parts() -> None:
    target = parse_target("rtsp://user:p%40ss@Camera.lan/stream?channel=1")
    assert (target.scheme, target.host, target.port, target.path) == ("rtsp", "camera.lan", 554, "/stream?channel=1")
    assert (target.user, target.password) == ("user", "p@ss")
    assert target.uri == "rtsp://camera.lan/stream?channel=1"
    assert parse_target("https://[2606:4700::1]:8443").uri == "https://[2606:4700::1]:8443/"


def test_what_is_secret_is_not_shown() -> None:
    target = parse_target("http://user:secret@camera.lan:81/mjpeg?password=secret")
    assert target.shown == "http://camera.lan:81/mjpeg?…"
    assert "secret" not in repr(target) + target.uri.partition("?")[0]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://host/x", "gopher://host/", "concat:a|b", "unix:///run/s", "data:text/plain,x",
        "//host/", "rtsp:///path", "rtsp://", "host/path", "", "http://host/a b", "http://host/\r\nX: y", "http://host\\@other/",
        "http://host:99999/", "http://host:x/", "http://[::1/", "http://h\u00f6st/", "http://" + "a" * 3000,
        "rtsp://us%0d%0aer:p@host/", "rtmp://host/live", "udp://239.0.0.1:5000",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_source_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target(url)
    assert refused.value.param == "url"
    assert "host" not in url or url not in refused.value.message


def test_a_redirect_takes_the_password_to_the_same_place_alone() -> None:
    target = parse_target("http://user:secret@camera.lan/a/b")
    assert target.moved("c?d=1").uri == "http://camera.lan/a/c?d=1"
    assert target.moved("/x").password == "secret"
    elsewhere = target.moved("http://other.lan/a")
    assert (elsewhere.host, elsewhere.user, elsewhere.password) == ("other.lan", "", "")
    assert target.moved("http://camera.lan:81/").password == ""
    assert target.moved("https://camera.lan/").password == ""
    assert parse_target("rtsp://a.lan/x").moved("rtsp://b.lan:8554/y").uri == "rtsp://b.lan:8554/y"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://camera.lan/", "http://camera.lan/"),
        ("rtsps://camera.lan/", "rtsp://camera.lan/"),
        ("http://camera.lan/", "file:///etc/passwd"),
        ("http://camera.lan/", "rtsp://camera.lan/"),
        ("rtsp://camera.lan/", "http://169.254.169.254/"),
    ],
)
def test_a_redirect_to_another_protocol_is_refused(url: str, location: str) -> None:
    with pytest.raises(BadRequest):
        parse_target(url).moved(location)
