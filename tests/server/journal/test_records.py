import os
import random
from pathlib import Path

import pytest

from server.journal.records import START, SealedFile, SealedReader, Slot
from server.journal.vault import SessionKey

pytestmark = pytest.mark.unit

KEY = SessionKey(session_id="s", tenant="t", created_at=0.0, retention_hours=None, secret=bytes(range(32)))
RECORDS = [(b"head %d" % n, bytes([n]) * (n * 50)) for n in range(8)]


def written(path: Path, records: list[tuple[bytes, bytes]] = RECORDS, purpose: str = "p") -> list[Slot]:
    file = SealedFile(os.open(path, os.O_WRONLY | os.O_CREAT), KEY, purpose)
    slots = file.append(records[:3]) + file.append(records[3:])
    assert file.size == path.stat().st_size
    file.close()
    return slots


def read(path: Path, key: SessionKey = KEY, purpose: str = "p") -> list[tuple[bytes, bytes]]:
    with SealedReader(path, key, purpose) as reader:
        return [(head, reader.body(slot)) for slot, head in reader.heads()]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    slots = written(tmp_path / "f")
    assert read(tmp_path / "f") == RECORDS
    with SealedReader(tmp_path / "f", KEY, "p") as reader:
        assert [slot for slot, _ in reader.heads()] == slots
        assert reader.body(slots[5]) == RECORDS[5][1]


def test_nothing_can_be_read_without_the_key_or_under_another_name(tmp_path: Path) -> None:
    written(tmp_path / "f", [(b"planted head", b"planted body" * 20)])
    assert b"planted" not in (tmp_path / "f").read_bytes()
    other = SessionKey(session_id="s", tenant="t", created_at=0.0, retention_hours=None, secret=bytes(32))
    assert read(tmp_path / "f", other) == []
    assert read(tmp_path / "f", purpose="q") == []


def test_equal_records_look_different(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, [(b"same", b"same" * 100)] * 4)
    pieces = [(tmp_path / name).read_bytes()[start : start + 64] for name in "ab" for start in (START + 8, START + 500)]
    assert len(set(pieces)) == len(pieces)


def test_wherever_a_crash_cuts_the_whole_records_before_it_are_read(tmp_path: Path) -> None:
    slots = written(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    ends = [slot.offset + 8 + slot.head_bytes + slot.body_bytes for slot in slots]
    for cut in range(START, len(whole) + 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        assert read(tmp_path / "cut") == RECORDS[: sum(end <= cut for end in ends)]
        if cut % 97 == 0:  # blocks that were given to the file but never written
            (tmp_path / "cut").write_bytes(whole[:cut] + bytes(300))
            assert len(read_heads(tmp_path / "cut")) <= sum(end <= cut for end in ends) + 1
    (tmp_path / "cut").write_bytes(whole[: START - 1])
    with pytest.raises(ValueError, match="not a file"):
        read(tmp_path / "cut")


def read_heads(path: Path) -> list[bytes]:
    with SealedReader(path, KEY, "p") as reader:
        return [head for _, head in reader.heads()]


@pytest.mark.parametrize("seed", range(20))
def test_damage_costs_the_records_that_it_hits(tmp_path: Path, seed: int) -> None:
    slots = written(tmp_path / "f")
    source = random.Random(seed)
    data = bytearray((tmp_path / "f").read_bytes())
    hit = source.choice(slots)
    at = hit.offset + 8 + source.randrange(hit.head_bytes)
    data[at] ^= 1 << source.randrange(8)
    (tmp_path / "f").write_bytes(bytes(data))
    with SealedReader(tmp_path / "f", KEY, "p") as reader:
        heads = [head for _, head in reader.heads()]
        assert reader.damaged == 1
    assert heads == [head for n, (head, _) in enumerate(RECORDS) if n != hit.number]
    data[hit.offset + 8 + hit.head_bytes] ^= 1
    (tmp_path / "f").write_bytes(bytes(data))
    with SealedReader(tmp_path / "f", KEY, "p") as reader, pytest.raises(ValueError, match="damaged"):
        reader.body(hit)


def test_a_file_takes_no_more_after_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record sealed anew after a failed write would spend the same nonce twice."""
    file = SealedFile(os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT), KEY, "p")
    file.append(RECORDS[:1])
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(OSError, match="no space"):
            file.append(RECORDS[1:2])
    with pytest.raises(OSError, match="no more"):
        file.append(RECORDS[1:2])
    assert read(tmp_path / "f") == RECORDS[:1]
