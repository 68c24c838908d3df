import base64

import pytest

from server.sources.credentials import Credentials, strongest

pytestmark = pytest.mark.unit


def test_basic() -> None:
    credentials = Credentials("Aladdin", "open sesame")
    assert credentials.header("GET", "/") is None
    assert credentials.accept(['Basic realm="x"'])
    assert credentials.header("GET", "/") == "Basic " + base64.b64encode(b"Aladdin:open sesame").decode()


def test_digest_as_rfc_2069_has_it() -> None:
    """Without qop, as cameras ask: the value was worked out by hand from the RFC's formula."""
    credentials = Credentials("admin", "12345")
    assert credentials.accept(['Digest realm="IP Camera", nonce="abc"'])
    header = credentials.header("DESCRIBE", "rtsp://camera/1") or ""
    assert 'username="admin", realm="IP Camera", nonce="abc", uri="rtsp://camera/1"' in header
    assert 'response="ac8f3793143c8d6f7d91243f55cf6868"' in header
    assert "qop" not in header


def test_digest_as_rfc_7616_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of its section 3.9.1."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    parameters = (
        'realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'
    )
    opaque = 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    challenges = [f"Digest {parameters}, algorithm={name}, {opaque}" for name in ("SHA-256", "MD5")]
    credentials = Credentials("Mufasa", "Circle of Life")
    assert credentials.accept(challenges)
    header = credentials.header("GET", "/dir/index.html") or ""
    assert 'response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"' in header
    assert "algorithm=SHA-256, qop=auth, nc=00000001" in header
    assert opaque in header
    assert credentials.accept(challenges[1:]) is False, "the second refusal is the last"


def test_a_stale_nonce_is_another_try() -> None:
    credentials = Credentials("a", "b")
    assert credentials.accept(['Digest realm="x", nonce="1"'])
    assert credentials.accept(['Digest realm="x", nonce="2", stale=TRUE'])
    assert 'nonce="2"' in (credentials.header("GET", "/") or "")


def test_the_strongest_is_taken() -> None:
    headers = [
        'Basic realm="x"',
        'Digest realm="x", nonce="n"',
        "Bearer",
        'Digest realm="x", nonce="n", algorithm=TLS-1',
    ]
    found = strongest(headers)
    assert found is not None
    assert (found.scheme, found.algorithm) == ("digest", "MD5")
    assert strongest(["Bearer", "Digest", ""]) is None


def test_nobody_is_nobody() -> None:
    assert not Credentials("", "").accept(['Basic realm="x"'])
    assert "secret" not in repr(Credentials("a", "secret"))


def test_what_the_server_says_is_quoted() -> None:
    credentials = Credentials('a"b\\c', "d")
    credentials.accept([r'Digest realm="say \"hi\"", nonce="n"'])
    header = credentials.header("GET", "/") or ""
    assert r'username="a\"b\\c"' in header
    assert r'realm="say \"hi\""' in header
