import asyncio

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import LeaseLost, NotFound, SessionClosed
from protocol.ids import START, EntryId
from protocol.leases import Cursor, Lease
from protocol.messages import AnswerDone, Lane, MediaEnd, SessionStats
from protocol.retention import Retention
from tests.conformance.samples import SESSION, make_ask, make_picture, make_spec, until_expired

pytestmark = pytest.mark.conformance


async def test_only_one_of_many_workers_gets_the_session(bus: Bus) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    attempts = [bus.leases.acquire(SESSION, f"w_{n}") for n in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    leases = [result for result in results if isinstance(result, Lease)]
    assert len(leases) == 1
    assert leases[0].epoch == 1
    assert sum(isinstance(result, LeaseLost) for result in results) == 19


async def test_acquiring_again_is_the_same_lease(bus: Bus, owned: Lease) -> None:
    assert (await bus.leases.acquire(SESSION, "w_a")).epoch == owned.epoch


async def test_a_lapsed_lease_goes_to_the_next_worker_under_a_higher_epoch(
    bus: Bus, owned: Lease, connection: Connection
) -> None:
    await until_expired(connection, keys.lease(SESSION))
    taken = await bus.leases.acquire(SESSION, "w_b")
    assert taken.epoch == owned.epoch + 1
    assert await bus.leases.renew([(owned, SessionStats())]) == {SESSION: None}
    with pytest.raises(LeaseLost):
        await bus.leases.acquire(SESSION, "w_a")


async def test_a_lapsed_lease_that_nobody_took_is_renewed(bus: Bus, owned: Lease, connection: Connection) -> None:
    await until_expired(connection, keys.lease(SESSION))
    renewals = await bus.leases.renew([(owned, SessionStats(tokens=7))])
    assert renewals[SESSION] is not None
    record = await bus.sessions.get(SESSION)
    assert (record.state, record.stats.tokens) == ("live", 7)


async def test_a_released_lease_is_free_at_once(bus: Bus, owned: Lease) -> None:
    await bus.leases.release(owned)
    assert await bus.leases.renew([(owned, SessionStats())]) == {SESSION: None}
    assert (await bus.leases.acquire(SESSION, "w_b")).epoch > owned.epoch
    await bus.leases.release(owned)  # no longer one's own: changes nothing
    with pytest.raises(LeaseLost):
        await bus.leases.acquire(SESSION, "w_c")


async def test_a_new_owner_finds_the_open_questions_and_the_lanes_from_their_start(
    bus: Bus, owned: Lease, connection: Connection
) -> None:
    generation = await bus.lanes.claim_publisher(SESSION)
    for n in (1, 2, 3):
        await bus.lanes.append(SESSION, generation, n, make_picture(n), lossless=False)
    first = await bus.lanes.ask(SESSION, make_ask("q2"))
    last = await bus.lanes.ask(SESSION, make_ask("q1"))
    await bus.lanes.media_end(SESSION, 3000)
    read: dict[Lane, Cursor] = {"video": Cursor(EntryId(generation, 2), 2), "control": Cursor(first, 1)}
    assert await bus.leases.commit([(owned, read)]) == set()
    await until_expired(connection, keys.lease(SESSION))

    taken = await bus.leases.acquire(SESSION, "w_b")
    assert taken.unanswered == ("q2", "q1")
    assert taken.control_cursor == first
    assert taken.control_end > last
    assert taken.media_end == MediaEnd(at_ms=3000)
    assert taken.newest_ms == 3000
    assert taken.passed == {"audio": 0, "video": 0}
    assert await bus.lanes.backlog(SESSION) == {"audio": 0, "video": 3}
    assert await bus.leases.oldest_picture(SESSION) == make_picture(1)
    assert await bus.leases.newest(SESSION, "video") == EntryId(generation, 3)


async def test_gone_and_closed_sessions_cannot_be_taken(bus: Bus) -> None:
    with pytest.raises(NotFound):
        await bus.leases.acquire(SESSION, "w_a")
    await bus.sessions.open(make_spec(), "w_a")
    await bus.sessions.finish(SESSION, "client")
    with pytest.raises(SessionClosed):
        await bus.leases.acquire(SESSION, "w_a")


async def test_renewing_keeps_every_key_of_the_session(bus: Bus, owned: Lease, connection: Connection) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    names = [keys.session(SESSION), keys.lane(SESSION, "control"), keys.unanswered(SESSION), keys.output(SESSION)]
    for name in names:
        await connection.command("PEXPIRE", name, 5_000)
    await bus.leases.renew([(owned, SessionStats())])
    for name in names:
        assert await connection.command("PTTL", name) > 5_000


async def test_a_fresh_lease_starts_at_nothing(bus: Bus) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    lease = await bus.leases.acquire(SESSION, "w_a")
    assert (lease.control_cursor, lease.control_end, lease.media_end, lease.unanswered) == (START, START, None, ())
    assert lease.spec == make_spec()
    assert await bus.leases.oldest_picture(SESSION) is None


async def test_an_older_lease_of_the_same_worker_is_no_lease(bus: Bus, owned: Lease, connection: Connection) -> None:
    await until_expired(connection, keys.lease(SESSION))
    again = await bus.leases.acquire(SESSION, "w_a")
    read: dict[Lane, Cursor] = {"video": Cursor(EntryId(1, 1), 1)}
    assert await bus.leases.commit([(owned, read), (again, read)]) == {SESSION}
    assert await bus.leases.commit([(again, read)]) == set()


async def test_an_answered_question_is_not_left_to_the_next_owner(
    bus: Bus, owned: Lease, connection: Connection
) -> None:
    await bus.lanes.ask(SESSION, make_ask("q1"))
    await bus.lanes.ask(SESSION, make_ask("q2"))
    done = AnswerDone(question_id="q1", text="red", finish_reason="stop", as_of_ms=0)
    await bus.outputs.append(SESSION, owned.epoch, [(1, done)])
    await until_expired(connection, keys.lease(SESSION))
    assert (await bus.leases.acquire(SESSION, "w_b")).unanswered == ("q2",)


async def test_engines_that_a_session_has_cost_are_counted_for_a_while(server_url: str, connection: Connection) -> None:
    bus = await Bus.connect(server_url, Retention(crash_ms=60_000))
    await bus.sessions.open(make_spec(), "w_a")
    for crashes in (0, 1, 2):
        lease = await bus.leases.acquire(SESSION, "w_a")
        assert lease.crashes == crashes
        await bus.leases.release(lease, accused=True)
        await bus.leases.release(lease, accused=True)  # no longer one's own: nothing is counted twice
    lease = await bus.leases.acquire(SESSION, "w_a")
    await bus.leases.release(lease)
    assert (await bus.leases.acquire(SESSION, "w_b")).crashes == 3
    await connection.command("HSET", keys.session(SESSION), "crashes", "3:1")
    assert (await bus.leases.acquire(SESSION, "w_b")).crashes == 0
    await bus.aclose()
