import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sources.multipart import PartSplitter, boundary_of
from server.sources.outcome import Interrupted

pytestmark = pytest.mark.unit

FIRST, SECOND = b"\xff\xd8first\xff\xd9", b"\xff\xd8second--frame-not\xff\xd9"
STATED = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
UNSTATED = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n"
WORDS = b"--frame\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
BODY = STATED % (len(FIRST), FIRST) + UNSTATED % SECOND + WORDS + STATED % (len(FIRST), FIRST)


@given(st.lists(st.integers(0, len(BODY)), max_size=6))
def test_pictures_are_the_same_however_the_body_is_cut(cuts: list[int]) -> None:
    splitter = PartSplitter(b"--frame", 1000)
    ends = [0, *sorted(cuts), len(BODY)]
    found = [part for n in range(len(ends) - 1) for part in splitter.feed(BODY[ends[n] : ends[n + 1]])]
    assert found == [FIRST, SECOND, FIRST]


@pytest.mark.parametrize("text", ["x; boundary=frame", 'x; boundary="--frame"', "x;charset=a;Boundary= frame "])
def test_what_lies_between_pictures(text: str) -> None:
    assert boundary_of(text) == b"--frame"


def test_nobody_says_what_lies_between() -> None:
    with pytest.raises(Interrupted):
        boundary_of("multipart/x-mixed-replace")


@pytest.mark.parametrize(
    "body", [STATED % (50_000, b"\xff\xd8" + bytes(20_000)), bytes(5_000), b"--frame" + bytes(5_000)]
)
def test_a_part_without_an_end_is_refused(body: bytes) -> None:
    with pytest.raises(Interrupted):
        list(PartSplitter(b"--frame", 10_000).feed(body))


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes(pieces: list[bytes]) -> None:
    splitter = PartSplitter(b"--", 100)
    try:
        for piece in pieces:
            list(splitter.feed(piece))
    except Interrupted:
        return
