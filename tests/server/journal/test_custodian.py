from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from server.journal.custodian import QuotaFull
from server.journal.segments import segment_paths
from server.journal.vault import KeyMissing, SessionKey
from tests.server.journal.shelf import OTHER, SESSION, Shelf, frame, make_shelf

pytestmark = pytest.mark.unit

BODY = bytes(1000)


def fill(shelf: Shelf, key: SessionKey, segments: int, first_at: float) -> list[Path]:
    """Segments of about 1 KB, each a second younger than the one before."""
    for n in range(segments):
        shelf.put(key, frame(n, BODY))
        shelf.scribe.finish(key.session_id)
    paths = segment_paths(shelf.custodian.folder(key.session_id))[-segments:]
    for n, path in enumerate(paths):
        os.utime(path, (first_at + n, first_at + n))
    return paths


def names(shelf: Shelf, session_id: str) -> list[str]:
    return [path.stem for path in segment_paths(shelf.custodian.folder(session_id))]


def test_the_tenants_oldest_segments_make_room(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, tenant_bytes=10_000, segment_bytes=1_000)
    one = shelf.custodian.admit(SESSION, "alice", 1.0)
    two = shelf.custodian.admit(OTHER, "alice", 1.0)
    fill(shelf, one, 3, 1000.0)
    fill(shelf, two, 3, 1001.5)
    used = sum(held.bytes for name in (SESSION, OTHER) for held in shelf.custodian.held(name))
    shelf.custodian.make_room("alice", 10_000 - used + 1)
    assert (names(shelf, SESSION), names(shelf, OTHER)) == (["000002", "000003"], ["000001", "000002", "000003"])
    shelf.custodian.make_room("alice", 10_000 - used + 1700)
    assert (names(shelf, SESSION), names(shelf, OTHER)) == (["000003"], ["000001", "000002", "000003"])
    shelf.custodian.make_room("bob", 10_000)
    assert len(names(shelf, OTHER)) == 3


def test_what_is_kept_for_ever_is_never_sacrificed(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, tenant_bytes=5_000, segment_bytes=1_000)
    fill(shelf, shelf.custodian.admit(SESSION, "alice", None), 2, 1000.0)
    fill(shelf, shelf.custodian.admit(OTHER, "alice", 1.0), 1, 5000.0)
    with pytest.raises(QuotaFull):
        shelf.custodian.make_room("alice", 4_000)
    assert (names(shelf, SESSION), names(shelf, OTHER)) == (["000001", "000002"], [])


def test_retention_removes_old_segments_and_names_sessions_of_which_nothing_is_left(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    now = time.time()
    fill(shelf, shelf.custodian.admit(SESSION, "alice", 2.0), 3, now - 7201.5)
    fill(shelf, shelf.custodian.admit(OTHER, "alice", None), 1, now - 1e6)
    assert shelf.custodian.expire(now) == []
    assert (names(shelf, SESSION), names(shelf, OTHER)) == (["000003"], ["000001"])
    assert shelf.custodian.expire(now + 3600) == []
    assert names(shelf, SESSION) == []
    assert shelf.custodian.expire(now + 7202) == [SESSION]


def test_another_start_applies_the_same_retention(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    now = time.time()
    fill(shelf, shelf.custodian.admit(SESSION, "alice", 1.0), 2, now - 4000)
    again = make_shelf(tmp_path)
    again.custodian.expire(now)
    assert names(again, SESSION) == []


def test_erasing_takes_the_key_and_every_file(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    key = shelf.custodian.admit(SESSION, "alice", None)
    fill(shelf, key, 2, 1000.0)
    assert shelf.scribe.erase(SESSION)
    assert not shelf.scribe.erase(SESSION)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(KeyMissing):
        shelf.vault.open(SESSION)
    report = shelf.put(key, frame(9))
    assert (report.trouble, report.lost) == ("erased", 1)


def test_what_a_crash_left_half_erased_is_swept_away(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    fill(shelf, shelf.custodian.admit(SESSION, "alice", None), 1, 1000.0)
    fill(shelf, shelf.custodian.admit(OTHER, "alice", None), 1, 1000.0)
    shelf.vault.destroy(SESSION)
    (shelf.data / f".erased-{SESSION}-0").mkdir()
    (shelf.data / f".erased-{SESSION}-0" / "000001.seg").write_bytes(b"x")
    shelf.custodian.sweep()
    assert os.listdir(shelf.data) == [OTHER]
    assert shelf.custodian.totals() == (1, sum(held.bytes for held in shelf.custodian.held(OTHER)))
