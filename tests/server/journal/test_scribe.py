from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from server.journal import scribe as scribe_module
from server.journal.entries import Head, Kind
from server.journal.segments import INDEX, segment_paths
from tests.server.journal.shelf import OTHER, SESSION, frame, make_shelf, media

pytestmark = pytest.mark.unit


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "no space left")


def test_segments_end_at_their_size_and_have_an_index_then(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, segment_bytes=2_500)
    key = shelf.custodian.admit(SESSION, "alice", None)
    for n in range(7):
        shelf.put(key, frame(n, bytes(1000)))
    paths = segment_paths(shelf.custodian.folder(SESSION))
    assert [path.with_suffix(INDEX).exists() for path in paths] == [True, True, False]
    assert [kept.head.t_ms for kept in shelf.reading(key).records(Kind.FRAME, None, 0, 10)] == list(range(7))


def test_a_full_disk_stops_one_session_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    shelf = make_shelf(tmp_path)
    key = shelf.custodian.admit(SESSION, "alice", None)
    other = shelf.custodian.admit(OTHER, "alice", None)
    assert shelf.put(key, frame(0)).trouble == ""
    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space)
        report = shelf.put(key, frame(1), frame(2))
    assert (report.trouble, report.lost, report.written) == ("disk_full", 2, 0)
    assert shelf.put(other, frame(0)).trouble == ""
    assert shelf.put(key, frame(3)).trouble == "disk_full"
    now += scribe_module.RETRY_S + 1
    assert shelf.put(key, frame(4)).written == 1
    assert [kept.head.t_ms for kept in shelf.reading(key).records(Kind.FRAME, None, 0, 10)] == [0, 4]


def test_a_full_quota_of_what_is_kept_for_ever_stops_the_writing(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, tenant_bytes=4_000, segment_bytes=1_500)
    key = shelf.custodian.admit(SESSION, "alice", None)
    reports = [shelf.put(key, frame(n, bytes(1500))) for n in range(4)]
    assert [report.trouble for report in reports] == ["", "", "quota", "quota"]


def test_a_segment_removed_by_another_gateway_is_not_written_to(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    key = shelf.custodian.admit(SESSION, "alice", 1.0)
    shelf.put(key, frame(0))
    segment_paths(shelf.custodian.folder(SESSION))[0].unlink()
    shelf.put(key, frame(1))
    assert [kept.head.t_ms for kept in shelf.reading(key).records(Kind.FRAME, None, 0, 10)] == [1]


def test_two_gateways_write_one_session_without_meeting(tmp_path: Path) -> None:
    here, there = make_shelf(tmp_path), make_shelf(tmp_path)
    key = here.custodian.admit(SESSION, "alice", None)
    for n in range(6):
        (here if n % 2 else there).put(there.vault.open(SESSION), frame(n))
    assert sorted(kept.head.t_ms for kept in here.reading(key).records(Kind.FRAME, None, 0, 10)) == list(range(6))
    assert len(segment_paths(here.custodian.folder(SESSION))) == 2


def test_every_segment_begins_with_the_preambles_in_force(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, segment_bytes=1_000)
    key = shelf.custodian.admit(SESSION, "alice", None)
    idr = b"\0\0\0\1\x65 picture"
    shelf.put(key, (Head(kind=Kind.PREAMBLE, t_ms=0, track=2, codec="h264"), b"sets"), media(0, bytes(1200), 2))
    shelf.put(key, media(500, idr, 2), media(600, b"\0\0\1\x41 next", 2))
    assert len(segment_paths(shelf.custodian.folder(SESSION))) == 2
    point = shelf.reading(key).entry_point(2, 700)
    assert point is not None
    assert (point.t_ms, point.codec, point.preamble) == (500, "h264", b"sets")
