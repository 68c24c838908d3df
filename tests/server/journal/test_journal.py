"""The journal as the gateway drives it: what is told, what is counted, and what another gateway finds."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from protocol.errors import BadRequest, NoCapacity, NotFound
from protocol.messages import AnswerDone, AnswerFailed, Ask, Notice, SessionSpec, Store
from server import __main__ as entry
from server.journal.backlog import Backlog
from server.journal.entries import Kind
from server.journal.journal import DiskJournal, NoJournal
from server.journal.recorder import NoRecorder
from server.journal.scribe import Record
from server.metrics import Metrics
from server.settings import JournalSettings
from tests.server.journal.shelf import OTHER, SERVER_KEY, SESSION, frame, make_shelf
from tests.server.wire import until

pytestmark = pytest.mark.unit


def make_spec(session_id: str = SESSION, hours: float | None = None) -> SessionSpec:
    return SessionSpec(
        session_id=session_id,
        tenant="alice",
        model="fake",
        fps=1.0,
        budget_tokens=1024,
        policy="window",
        instructions="",
        ingest="live",
        created_at=0.0,
        store=Store(retention_hours=hours),
    )


@dataclass
class Told:
    """What clients were told, and the gateway's metrics."""

    notices: list[tuple[str, str, dict[str, int | float | str]]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def tell(self, session_id: str, notice: Notice) -> None:
        self.notices.append((session_id, notice.code, notice.data))

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"longlook_journal_{name}", labels) or 0.0


@asynccontextmanager
async def running(root: Path, told: Told, **settings: int) -> AsyncIterator[DiskJournal]:
    wanted = {"dir": root, "key": SecretStr(SERVER_KEY.hex()), **settings}
    journal = DiskJournal(JournalSettings.model_validate(wanted), root, told.metrics, told.tell)
    task = asyncio.create_task(journal.run())
    try:
        yield journal
    finally:
        task.cancel()
        await asyncio.wait([task])


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def times(journal: DiskJournal, session_id: str = SESSION) -> list[int]:
    recording = await journal.recording("alice", session_id)
    return [kept.head.t_ms for kept in recording.records(Kind.FRAME, None, 0, 1 << 40)]


async def test_all_that_was_taken_is_written_before_the_gateway_ends(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told) as journal:
        await journal.admit(make_spec())
        recorder = await journal.recorder(make_spec())
        for n in range(300):
            recorder.frame(bytes(5_000), n, 0)
    async with running(tmp_path, Told()) as again:
        assert await times(again) == list(range(300))
    assert told.sample("records_total") == 300
    assert told.sample("bytes_total") > 300 * 5_000
    assert told.notices == []


async def test_a_session_goes_on_where_another_gateway_left_it(tmp_path: Path) -> None:
    async with running(tmp_path, Told()) as here, running(tmp_path, Told()) as there:
        await here.admit(make_spec())
        (await here.recorder(make_spec())).frame(b"a", 0, 0)
        (await there.recorder(make_spec())).frame(b"b", 1, 0)
        await until(lambda: _has(there, [0, 1]))
        assert await there.erase("alice", SESSION)
        (await here.recorder(make_spec())).frame(b"c", 2, 0)
    assert files(tmp_path) == []


async def _has(journal: DiskJournal, expected: list[int]) -> bool:
    return sorted(await times(journal)) == expected


async def test_a_slow_disk_costs_records_and_nobody_waits(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told, queue_bytes=10_000) as journal:
        await journal.admit(make_spec())
        recorder = await journal.recorder(make_spec())
        for n in range(5):  # without a pause: nothing can be written meanwhile
            recorder.frame(bytes(4_000), n, 0)
        await until(lambda: _told(told, 1))
        assert told.notices == [(SESSION, "journal_dropped", {"records": 3, "reason": "backlog"})]
        assert told.sample("dropped_total", reason="backlog") == 3
        await until(lambda: _has(journal, [0, 1]))
        recorder.frame(b"", 9, 0)
        await until(lambda: _has(journal, [0, 1, 9]))


async def _told(told: Told, count: int) -> bool:
    return len(told.notices) >= count


async def test_a_full_disk_is_told_once_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    told = Told()
    async with running(tmp_path, told) as journal:
        await journal.admit(make_spec())
        await journal.admit(make_spec(OTHER))
        recorder = await journal.recorder(make_spec())
        monkeypatch.setattr("server.journal.scribe.RETRY_S", -1.0)
        with monkeypatch.context() as full:
            full.setattr("server.journal.folders.write_all", no_space)
            full.setattr("server.journal.records.write_all", no_space)
            for n in range(3):
                recorder.frame(b"", n, 0)
                await until(lambda n=n: _lost(told, n + 1))  # type: ignore[misc]
            with pytest.raises(NoCapacity):
                await journal.admit(make_spec(f"s_{'c' * 24}"))
        assert told.notices == [(SESSION, "journal_stopped", {"reason": "disk_full"})]
        (await journal.recorder(make_spec(OTHER))).frame(b"", 7, 0)
        recorder.frame(b"", 8, 0)
        await until(lambda: _has(journal, [8]))
        await until(lambda: _told(told, 2))
        assert told.notices[1:] == [(SESSION, "journal_resumed", {})]
        assert await times(journal, OTHER) == [7]


async def _lost(told: Told, count: int) -> bool:
    return told.sample("dropped_total", reason="disk_full") == count


async def test_questions_are_kept_with_their_outcome_where_they_were_asked(tmp_path: Path) -> None:
    async with running(tmp_path, Told()) as journal:
        await journal.admit(make_spec())
        recorder = await journal.recorder(make_spec())
        for name in ("q1", "q2"):
            recorder.asked(Ask(question_id=name, text=f"{name}?", at_ms=500, asked_at=1.0))
        known = journal.known(SESSION)
        known.ended(AnswerDone(question_id="q1", text="yes", finish_reason="stop", as_of_ms=600))
        known.ended(AnswerDone(question_id="q1", text="yes", finish_reason="stop", as_of_ms=600))
        known.ended(AnswerFailed(question_id="q2", code="worker_lost", message=""))
        known.ended(AnswerDone(question_id="elsewhere", text="no", finish_reason="stop", as_of_ms=0))
        assert isinstance(journal.known(OTHER), NoRecorder)
    async with running(tmp_path, Told()) as journal:
        texts = (await journal.recording("alice", SESSION)).texts(0, 10_000)
    assert [(t, said.by, said.question_id, said.text, said.error) for t, said in texts] == [
        (500, "question", "q1", "q1?", ""),
        (500, "question", "q2", "q2?", ""),
        (600, "answer", "q1", "yes", ""),
        (500, "answer", "q2", "", "worker_lost"),
    ]


async def test_retention_erases_what_is_over_and_spares_what_lives(tmp_path: Path) -> None:
    told = Told()
    shelf = make_shelf(tmp_path)
    for name in (SESSION, OTHER):
        shelf.put(shelf.custodian.admit(name, "alice", 1e-6), frame(0, bytes(100)))
        shelf.scribe.finish(name)
    for path in files(tmp_path / "data"):
        os.utime(path, (0, 0))

    async def alive(session_id: str) -> bool:
        return session_id == OTHER

    async with running(tmp_path, told) as journal:
        keeping = asyncio.create_task(journal.keep(alive))
        await until(lambda: _gone(journal))
        keeping.cancel()
        await asyncio.wait([keeping])
        assert await times(journal, OTHER) == []
        assert [ward.session_id for ward in await journal.recordings("alice")] == [OTHER]


async def _gone(journal: DiskJournal) -> bool:
    try:
        await journal.recording("alice", SESSION)
    except NotFound:
        return True
    return False


async def test_a_recording_is_its_tenants_alone(tmp_path: Path) -> None:
    async with running(tmp_path, Told()) as journal:
        await journal.admit(make_spec())
        with pytest.raises(NotFound):
            await journal.recording("bob", SESSION)
        assert not await journal.erase("bob", SESSION)
        assert await journal.recordings("bob") == []
        assert await journal.erase("alice", SESSION)


async def test_another_server_key_opens_nothing_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, Told()) as journal:
        await journal.admit(make_spec())
    (tmp_path / "key").write_text("ff" * 32)
    told = Told()
    settings = JournalSettings(dir=tmp_path, key_file=tmp_path / "key")
    stranger = DiskJournal(settings, tmp_path, told.metrics, told.tell)
    with pytest.raises(NoCapacity):
        await stranger.recording("alice", SESSION)
    assert isinstance(await stranger.recorder(make_spec()), NoRecorder)
    assert told.notices == [(SESSION, "journal_stopped", {"reason": "key"})]


async def test_a_gateway_without_a_journal_refuses_the_wish() -> None:
    with pytest.raises(BadRequest, match="no journal"):
        await NoJournal().admit(make_spec())
    with pytest.raises(NotFound):
        await NoJournal().recording("alice", SESSION)
    assert isinstance(await NoJournal().recorder(make_spec()), NoRecorder)


def test_a_journal_needs_a_key_and_room_for_its_segments(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs journal"):
        JournalSettings(dir=tmp_path)
    with pytest.raises(ValidationError, match="two segments"):
        JournalSettings(tenant_bytes=10, segment_bytes=6)


def test_the_backlog_is_bounded_and_forgets_what_is_erased(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    keys = [shelf.custodian.admit(name, "alice", None) for name in (SESSION, OTHER)]
    backlog = Backlog(max_bytes=100, depth=4)
    taken = [backlog.put(Record(keys[n % 2], *frame(n, bytes(30)))) for n in range(5)]
    assert taken == [True, True, True, False, False]
    assert (backlog.depth, backlog.bytes) == (3, 90)
    backlog.forget(OTHER)
    assert (backlog.depth, backlog.bytes) == (2, 60)
    assert backlog.dropped() == {SESSION: 1}
    assert backlog.dropped() == {}
    assert [record.head.t_ms for record in backlog.take()] == [0, 2]
    assert (backlog.depth, backlog.bytes) == (0, 0)


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_cannot_be_used_ends_the_gateway_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGLOOK_JOURNAL__DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("LONGLOOK_JOURNAL__KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr(entry, "configure_logs", lambda *_: None)
    assert entry.main() == os.EX_CONFIG
