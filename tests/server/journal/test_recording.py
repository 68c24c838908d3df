from __future__ import annotations

import random
from pathlib import Path

import pytest

from server.journal.entries import Extent, Head, Kind, Said, encode
from server.journal.segments import INDEX, segment_paths
from server.journal.vault import SessionKey
from tests.server.journal.shelf import SESSION, Shelf, frame, make_shelf, media

pytestmark = pytest.mark.unit

IDR, DELTA = b"\0\0\0\1\x67\0\0\0\1\x65", b"\0\0\0\1\x41"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return make_shelf(tmp_path, segment_bytes=4_000)


@pytest.fixture
def key(shelf: Shelf) -> SessionKey:
    return shelf.custodian.admit(SESSION, "alice", None)


def test_the_frame_of_a_moment_is_the_newest_before_it(shelf: Shelf, key: SessionKey) -> None:
    for n in range(40):
        shelf.put(key, frame(1000 * n, b"%d" % n + bytes(500), track=n % 2))
    reading = shelf.reading(key)
    for at_ms, track, expected in [(-1, None, None), (0, None, 0), (15_999, None, 15), (15_999, 0, 14), (10**9, 1, 39)]:
        found = reading.frame(at_ms, track)
        assert (None if found is None else found.body.rstrip(b"\0")) == (None if expected is None else b"%d" % expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_answer_does_not_depend_on_how_records_fell_into_segments(tmp_path: Path, seed: int) -> None:
    """Tracks keep their own time, so segments overlap; an index may be missing or torn."""
    source = random.Random(seed)
    shelf = make_shelf(tmp_path, segment_bytes=source.choice([500, 2_000, 50_000]))
    key = shelf.custodian.admit(SESSION, "alice", None)
    clocks, written = [0, 5_000], []
    for _ in range(120):
        track = source.randrange(2)
        clocks[track] += source.randrange(1, 400)
        written.append((clocks[track], track))
        shelf.put(key, frame(clocks[track], b"%d" % clocks[track], track))
    for path in segment_paths(shelf.custodian.folder(SESSION)):
        index = path.with_suffix(INDEX)
        if index.exists() and source.random() < 0.5:
            index.write_bytes(index.read_bytes()[: source.randrange(60)])
    reading = shelf.reading(key)
    for _ in range(40):
        at_ms, wanted = source.randrange(30_000), source.choice([None, 0, 1])
        times = [t for t, of in written if t <= at_ms and wanted in (None, of)]
        found = reading.frame(at_ms, wanted)
        assert (None if found is None else found.head.t_ms) == max(times, default=None)
    assert [(e.track, e.records) for e in reading.extents()] == [
        (track, sum(of == track for _, of in written)) for track in (0, 1)
    ]


def test_a_span_begins_at_the_key_frame_before_it(shelf: Shelf, key: SessionKey) -> None:
    for n in range(60):
        shelf.put(key, media(100 * n, (DELTA if n % 10 else IDR) + bytes(300)))
    reading = shelf.reading(key)
    starts = [point and point.t_ms for point in (reading.entry_point(0, at) for at in (2_000, 2_950, 0, 99_999))]
    assert starts == [2_000, 2_000, 0, 5_000]
    units = list(reading.records(Kind.MEDIA, 0, 2_000, 2_999))
    assert [unit.head.t_ms for unit in units] == list(range(2_000, 3_000, 100))
    assert [unit.head.key for unit in units] == [True, *[False] * 9]
    assert reading.entry_point(1, 2_000) is None


def test_before_the_first_key_frame_there_is_only_what_follows(shelf: Shelf, key: SessionKey) -> None:
    shelf.put(key, media(0, DELTA), media(100, IDR), media(200, DELTA))
    point = shelf.reading(key).entry_point(0, 50)
    assert point is not None
    assert point.t_ms == 100


def test_what_was_said_is_told_once(shelf: Shelf, key: SessionKey) -> None:
    head = Head(kind=Kind.TEXT, t_ms=700)
    question = Said(by="question", question_id="q1", at=1.0, text="What?", mode="frozen")
    answer = Said(by="answer", question_id="q1", at=2.0, text="A cube.", finish_reason="stop")
    shelf.put(key, (head, encode(question)), (head, encode(question)), (head, b"\xff"), (head, encode(answer)))
    assert shelf.reading(key).texts(0, 1_000) == [(700, question), (700, answer)]
    assert shelf.reading(key).texts(701, 1_000) == []


def test_the_torn_end_of_a_segment_costs_its_last_record_alone(shelf: Shelf, key: SessionKey) -> None:
    shelf.put(key, frame(0, bytes(500)), frame(1, bytes(500)))
    (path,) = segment_paths(shelf.custodian.folder(SESSION))
    path.write_bytes(path.read_bytes()[:-1])
    again = make_shelf(shelf.data.parent)
    again.put(key, frame(2, bytes(500)))
    reading = again.reading(again.vault.open(SESSION))
    assert [kept.head.t_ms for kept in reading.records(Kind.FRAME, None, 0, 10)] == [0, 2]
    extents = reading.extents()
    assert extents == [Extent(Kind.FRAME, 0, "jpeg", 0, 2, 2, extents[0].bytes)]
