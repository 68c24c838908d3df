import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import LeaseLost, NotFound
from protocol.ids import START, EntryId
from protocol.leases import Lease
from protocol.messages import AnswerDelta, AnswerDone, AnswerFailed, AnswerStarted, Notice, Output, Owned, Turn
from protocol.outputs import OutputTail
from protocol.retention import Retention
from tests.conformance.samples import OTHER, SESSION, make_ask, make_spec, until_expired

pytestmark = pytest.mark.conformance

STARTED = AnswerStarted(question_id="q1", as_of_ms=1000, mode="frozen")
DELTA = AnswerDelta(question_id="q1", index=0, token_ids=[5], text="red")
DONE = AnswerDone(question_id="q1", text="red", finish_reason="stop", as_of_ms=1000)
FAILED = AnswerFailed(question_id="q1", code="worker_lost", message="no worker")
NOTICE = Notice(code="waiting", message="no worker yet")


@pytest.fixture
async def follower(bus: Bus) -> AsyncIterator[OutputTail]:
    """A gateway's follower, already woken once: its first read does not wait."""
    follower = bus.follow_outputs("g_a")
    await follower.wake()
    yield follower
    await follower.aclose()


async def test_outputs_of_many_sessions_come_in_one_read(bus: Bus, owned: Lease, follower: OutputTail) -> None:
    await bus.sessions.open(make_spec(OTHER), "w_b")
    other = await bus.leases.acquire(OTHER, "w_b")
    await bus.outputs.append(OTHER, other.epoch, [(0, Owned(worker_id="w_b")), (1, NOTICE)])
    await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])
    events = await follower.read({SESSION: EntryId(1, 0), OTHER: START})
    seen = {(event.session_id, str(event.id)): event.output for event in events}
    assert seen == {(SESSION, "1-1"): NOTICE, (OTHER, "1-0"): Owned(worker_id="w_b"), (OTHER, "1-1"): NOTICE}


async def test_a_waiting_follower_is_woken(bus: Bus, owned: Lease, follower: OutputTail) -> None:
    await follower.read({})
    waiting = asyncio.create_task(follower.read({SESSION: EntryId(1, 0)}))
    await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])
    assert [event.output for event in await waiting] == [NOTICE]


async def test_the_old_epoch_is_refused_once_the_new_owner_has_spoken(
    bus: Bus, owned: Lease, connection: Connection
) -> None:
    await until_expired(connection, keys.lease(SESSION))
    taken = await bus.leases.acquire(SESSION, "w_b")
    await bus.outputs.append(SESSION, taken.epoch, [(0, Owned(worker_id="w_b", lost_ms=10))])
    with pytest.raises(LeaseLost):
        await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])
    assert [str(event.id) for event in await bus.outputs.since(SESSION)] == ["1-0", "2-0"]
    assert (await bus.sessions.get(SESSION)).fenced == 1


async def test_repeating_an_append_changes_nothing(bus: Bus, owned: Lease) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    entries: list[tuple[int, Output]] = [(1, STARTED), (2, DELTA), (3, DONE)]
    for _ in range(3):
        await bus.outputs.append(SESSION, owned.epoch, entries)
    assert [event.output for event in await bus.outputs.since(SESSION, EntryId(1, 0))] == [STARTED, DELTA, DONE]


async def test_another_entry_under_a_used_id_is_refused(bus: Bus, owned: Lease) -> None:
    await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])
    with pytest.raises(LeaseLost):
        await bus.outputs.append(SESSION, owned.epoch, [(1, DELTA)])


async def test_a_question_is_answered_once(bus: Bus, owned: Lease) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    await bus.outputs.append(SESSION, owned.epoch, [(1, STARTED)])
    record = await bus.outputs.question(SESSION, "q1")
    assert (record.ask, record.started, record.outcome) == (make_ask(), True, None)
    await bus.outputs.append(SESSION, owned.epoch, [(2, DONE)])
    await bus.outputs.append(SESSION, owned.epoch, [(3, FAILED), (4, NOTICE)])
    assert (await bus.outputs.question(SESSION, "q1")).outcome == DONE
    assert [event.output for event in await bus.outputs.since(SESSION, EntryId(1, 1))] == [DONE, NOTICE]


async def test_an_answer_can_be_asked_for_until_it_expires(bus: Bus, owned: Lease, connection: Connection) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    await bus.outputs.append(SESSION, owned.epoch, [(1, DONE)])
    life = await connection.command("PTTL", keys.question(SESSION, "q1"))
    assert 0 < life <= Retention().answer_ms
    await until_expired(connection, keys.question(SESSION, "q1"))
    with pytest.raises(NotFound):
        await bus.outputs.question(SESSION, "q1")


async def test_cancelling_marks_the_question(bus: Bus, owned: Lease) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    await bus.lanes.cancel(SESSION, "q1")
    assert (await bus.outputs.question(SESSION, "q1")).cancelled


async def test_a_gateway_ends_a_question_only_where_nobody_owns_the_session(
    bus: Bus, owned: Lease, connection: Connection
) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    assert await bus.outputs.fail_unowned(SESSION, FAILED) is False
    await until_expired(connection, keys.lease(SESSION))
    assert await bus.outputs.fail_unowned(SESSION, FAILED) is True
    assert await bus.outputs.fail_unowned(SESSION, FAILED) is False
    events = await bus.outputs.since(SESSION, EntryId(1, 0))
    assert [event.output for event in events] == [FAILED]
    assert (await bus.leases.acquire(SESSION, "w_b")).unanswered == ()
    with pytest.raises(LeaseLost):  # the paused owner's next entry would take the same id
        await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])


async def test_the_newest_id_is_where_a_new_client_begins(bus: Bus, owned: Lease) -> None:
    assert await bus.outputs.newest(SESSION) == EntryId(1, 0)
    assert await bus.outputs.newest(OTHER) == START


async def test_outputs_of_a_session_that_is_gone_are_refused(bus: Bus, owned: Lease, connection: Connection) -> None:
    await until_expired(connection, keys.session(SESSION))
    with pytest.raises(LeaseLost):
        await bus.outputs.append(SESSION, owned.epoch, [(1, NOTICE)])


class TestKeeping:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(output_ms=-1)  # everything is old at once

    async def test_old_outputs_are_trimmed(self, bus: Bus, owned: Lease) -> None:
        for n in range(1, 5):
            await bus.outputs.append(SESSION, owned.epoch, [(n, NOTICE)])
        assert await bus.outputs.since(SESSION) == []
        with pytest.raises(LeaseLost):
            await bus.outputs.append(SESSION, owned.epoch, [(3, DELTA)])

    async def test_what_was_said_of_an_open_question_is_kept_until_its_end(self, bus: Bus, owned: Lease) -> None:
        await bus.lanes.ask(SESSION, make_ask())
        said: list[Output] = [STARTED, DELTA, NOTICE]
        for n, output in enumerate(said, 1):
            await bus.outputs.append(SESSION, owned.epoch, [(n, output)])
        assert [event.output for event in await bus.outputs.since(SESSION)][-3:] == said
        await bus.outputs.append(SESSION, owned.epoch, [(4, DONE)])
        assert await bus.outputs.since(SESSION) == []

    async def test_a_question_that_was_begun_is_kept_no_shorter(
        self, bus: Bus, owned: Lease, connection: Connection
    ) -> None:
        await bus.lanes.ask(SESSION, make_ask())
        await bus.outputs.append(SESSION, owned.epoch, [(1, STARTED)])
        life = await connection.command("PTTL", keys.question(SESSION, "q1"))
        assert bus.retention.answer_ms < life <= bus.retention.question_ms


async def test_what_is_remembered_is_kept_once_and_bounded(bus: Bus, owned: Lease, connection: Connection) -> None:
    for n in range(1, 71):
        await bus.lanes.ask(SESSION, make_ask(f"q{n}"))
        done = AnswerDone(question_id=f"q{n}", text="yes", finish_reason="stop", as_of_ms=n)
        turn = Turn(at_ms=n, question="what is it?", answer=[n])
        for _ in range(2):
            await bus.outputs.append(SESSION, owned.epoch, [(n, done)], {n: turn})
    assert [turn.answer for turn in await bus.outputs.turns(SESSION)] == [[n] for n in range(7, 71)]
    await bus.sessions.finish(SESSION, "client", worker_id="w_a", epoch=owned.epoch)
    assert await bus.outputs.turns(SESSION) == []
