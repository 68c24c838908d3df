import asyncio

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import Conflict, LaneFull, NotFound, RateLimited, Replaced, SessionClosed
from protocol.ids import START, EntryId
from protocol.leases import Cursor, LaneBatch, LaneTail, Lease
from protocol.messages import Ask, Cancel, Close, MediaEnd
from protocol.retention import Retention
from tests.conformance.samples import SESSION, make_ask, make_picture, make_sound, make_spec, until_expired

pytestmark = pytest.mark.conformance


class TestControl:
    async def test_a_repeated_question_is_appended_once_and_keeps_its_id(
        self, bus: Bus, owned: Lease, lanes_tail: LaneTail
    ) -> None:
        first = await bus.lanes.ask(SESSION, make_ask())
        again = await bus.lanes.ask(SESSION, make_ask())
        assert again == first
        batch = await lanes_tail.read({(SESSION, "control"): START})
        assert [entry.message for entry in batch.entries] == [make_ask()]

    async def test_a_question_id_used_for_another_question_is_refused(self, bus: Bus, owned: Lease) -> None:
        await bus.lanes.ask(SESSION, make_ask(text="what?"))
        with pytest.raises(Conflict):
            await bus.lanes.ask(SESSION, make_ask(text="who?"))

    async def test_all_kinds_arrive_in_order(self, bus: Bus, owned: Lease, lanes_tail: LaneTail) -> None:
        await bus.lanes.ask(SESSION, make_ask())
        await bus.lanes.cancel(SESSION, "q1")
        await bus.lanes.media_end(SESSION, 5000)
        assert await bus.lanes.close(SESSION, "done") is True
        batch = await lanes_tail.read({(SESSION, "control"): START})
        kinds = [type(entry.message) for entry in batch.entries]
        assert kinds == [Ask, Cancel, MediaEnd, Close]

    async def test_a_closed_session_takes_nothing_more(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        await bus.lanes.close(SESSION)
        with pytest.raises(SessionClosed):
            await bus.lanes.ask(SESSION, make_ask())
        with pytest.raises(SessionClosed):
            await bus.lanes.append(SESSION, generation, 1, make_picture(1), lossless=False)
        with pytest.raises(SessionClosed):
            await bus.lanes.claim_publisher(SESSION)
        assert await bus.lanes.close(SESSION) is True

    async def test_an_unknown_session_or_question_is_not_found(self, bus: Bus, owned: Lease) -> None:
        with pytest.raises(NotFound):
            await bus.lanes.ask("s_nowhere", make_ask())
        with pytest.raises(NotFound):
            await bus.lanes.cancel(SESSION, "q_nowhere")
        with pytest.raises(NotFound):
            await bus.lanes.backlog("s_nowhere")

    async def test_unanswered_questions_are_bounded(self, bus: Bus, owned: Lease, retention: Retention) -> None:
        for n in range(retention.unanswered):
            await bus.lanes.ask(SESSION, make_ask(f"q{n}"))
        with pytest.raises(RateLimited):
            await bus.lanes.ask(SESSION, make_ask("one-too-many"))

    async def test_fifty_writers_of_one_question_leave_one_entry(self, bus: Bus, owned: Lease) -> None:
        ids = await asyncio.gather(*(bus.lanes.ask(SESSION, make_ask()) for _ in range(50)))
        assert len(set(ids)) == 1


class TestMedia:
    async def test_ids_are_generation_and_sequence(self, bus: Bus, owned: Lease) -> None:
        assert await bus.lanes.claim_publisher(SESSION) == 1
        generation = await bus.lanes.claim_publisher(SESSION)
        appended = await bus.lanes.append(SESSION, generation, 7, make_picture(7), lossless=False)
        assert (appended.id, appended.backlog) == (EntryId(2, 7), 1)

    async def test_a_repeated_append_succeeds_once(self, bus: Bus, owned: Lease, connection: Connection) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for _ in range(3):
            appended = await bus.lanes.append(SESSION, generation, 1, make_picture(1), lossless=False)
        assert appended.backlog == 1
        assert await connection.command("XLEN", keys.lane(SESSION, "video")) == 1

    async def test_a_refused_id_that_is_not_ones_own_is_an_error(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        await bus.lanes.append(SESSION, generation, 2, make_picture(2), lossless=False)
        with pytest.raises(Conflict):
            await bus.lanes.append(SESSION, generation, 2, make_picture(3), lossless=False)
        with pytest.raises(Conflict):
            await bus.lanes.append(SESSION, generation, 1, make_picture(1), lossless=False)

    async def test_a_newer_publisher_replaces_the_older(self, bus: Bus, owned: Lease) -> None:
        older = await bus.lanes.claim_publisher(SESSION)
        newer = await bus.lanes.claim_publisher(SESSION)
        with pytest.raises(Replaced):
            await bus.lanes.append(SESSION, older, 1, make_picture(1), lossless=False)
        await bus.lanes.append(SESSION, newer, 1, make_picture(1), lossless=False)

    async def test_the_newest_session_time_is_kept(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        await bus.lanes.append(SESSION, generation, 1, make_picture(1, t_ms=4321), lossless=False)
        assert (await bus.sessions.get(SESSION)).newest_ms == 4321


class TestTrimming:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(video_bytes=1000)

    async def test_a_live_lane_holds_its_bytes_and_drops_the_oldest(
        self, bus: Bus, owned: Lease, connection: Connection
    ) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in range(1, 20):
            await bus.lanes.append(SESSION, generation, n, make_picture(n, size=300), lossless=False)
        left = await connection.command("XRANGE", keys.lane(SESSION, "video"), "-", "+")
        assert [entry for entry, _ in left] == [b"1-18", b"1-19"]
        assert sum(len(fields[b"m"]) for _, fields in left) <= 1000

    async def test_a_lossless_lane_refuses_rather_than_drop_what_is_unread(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in (1, 2):
            await bus.lanes.append(SESSION, generation, n, make_picture(n, size=300), lossless=True)
        with pytest.raises(LaneFull):
            await bus.lanes.append(SESSION, generation, 3, make_picture(3, size=300), lossless=True)
        await bus.leases.commit([(owned, {"video": Cursor(EntryId(generation, 1), 1)})])
        appended = await bus.lanes.append(SESSION, generation, 3, make_picture(3, size=300), lossless=True)
        assert appended.backlog == 2

    async def test_what_an_owner_before_has_read_counts_as_unread_again(
        self, bus: Bus, owned: Lease, connection: Connection
    ) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in (1, 2):
            await bus.lanes.append(SESSION, generation, n, make_picture(n, size=300), lossless=True)
        await bus.leases.commit([(owned, {"video": Cursor(EntryId(generation, 2), 2)})])
        await until_expired(connection, keys.lease(SESSION))
        await bus.leases.acquire(SESSION, "w_b")
        with pytest.raises(LaneFull):
            await bus.lanes.append(SESSION, generation, 3, make_picture(3, size=300), lossless=True)

    async def test_one_entry_larger_than_the_lane_still_passes(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        await bus.lanes.append(SESSION, generation, 1, make_picture(1, size=5000), lossless=True)


class TestTrimmingByAge:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(lane_ms=-1)  # everything is old at once

    async def test_old_entries_leave_a_live_lane(self, bus: Bus, owned: Lease, connection: Connection) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in range(1, 5):
            await bus.lanes.append(SESSION, generation, n, make_picture(n), lossless=False)
        assert await connection.command("XLEN", keys.lane(SESSION, "video")) == 1

    async def test_unread_entries_stay_in_a_lossless_lane(self, bus: Bus, owned: Lease, connection: Connection) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in range(1, 5):
            await bus.lanes.append(SESSION, generation, n, make_picture(n), lossless=True)
        assert await connection.command("XLEN", keys.lane(SESSION, "video")) == 4


class TestControlTrimming:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(control_ms=-1000)  # everything is old at once

    async def test_old_entries_leave_once_they_are_read(self, bus: Bus, owned: Lease, connection: Connection) -> None:
        lane = keys.lane(SESSION, "control")
        ids = [await bus.lanes.ask(SESSION, make_ask(f"q{n}")) for n in range(3)]
        assert await connection.command("XLEN", lane) == 3
        await bus.leases.commit([(owned, {"control": Cursor(EntryId(ids[2].major + 1, 0), 3)})])
        await bus.lanes.ask(SESSION, make_ask("q3"))
        assert await connection.command("XLEN", lane) <= 1


class TestReading:
    async def test_reads_only_what_is_new_and_only_from_the_lanes_named(
        self, bus: Bus, owned: Lease, lanes_tail: LaneTail
    ) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in (1, 2, 3):
            await bus.lanes.append(SESSION, generation, n, make_picture(n), lossless=False)
        await bus.lanes.append(SESSION, generation, 1, make_sound(1), lossless=False)
        batch = await lanes_tail.read({(SESSION, "video"): EntryId(generation, 1)})
        assert [entry.message for entry in batch.entries] == [make_picture(2), make_picture(3)]

    async def test_a_call_and_a_wake_end_the_waiting(self, bus: Bus, owned: Lease, lanes_tail: LaneTail) -> None:
        await lanes_tail.read({})
        waiting = asyncio.create_task(lanes_tail.read({(SESSION, "video"): START}))
        await bus.placement.call("w_a", SESSION)
        batch = await waiting
        assert (list(batch.entries), list(batch.called)) == ([], [SESSION])
        await lanes_tail.wake()
        assert await lanes_tail.read({}) == LaneBatch(entries=[], called=[])

    async def test_backlog_counts_what_the_cursor_has_not_passed(self, bus: Bus, owned: Lease) -> None:
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in range(1, 6):
            await bus.lanes.append(SESSION, generation, n, make_picture(n), lossless=False)
        await bus.leases.commit([(owned, {"video": Cursor(EntryId(generation, 3), 3)})])
        assert await bus.lanes.backlog(SESSION) == {"audio": 0, "video": 2}

    async def test_a_cursor_without_the_lease_is_refused(self, bus: Bus, owned: Lease, connection: Connection) -> None:
        await until_expired(connection, keys.lease(SESSION))
        assert await bus.leases.commit([(owned, {"video": Cursor(EntryId(1, 1), 1)})]) == {SESSION}
        await bus.leases.acquire(SESSION, "w_b")
        assert await bus.leases.commit([(owned, {"video": Cursor(EntryId(1, 1), 1)})]) == {SESSION}

    async def test_a_session_in_another_tenant_shares_nothing(
        self, bus: Bus, owned: Lease, lanes_tail: LaneTail
    ) -> None:
        other = make_spec("s_ffffffffffffffffffffffff", tenant="bob")
        await bus.sessions.open(other, "w_a")
        generation = await bus.lanes.claim_publisher(other.session_id)
        await bus.lanes.append(other.session_id, generation, 1, make_picture(1), lossless=False)
        assert list((await lanes_tail.read({(SESSION, "video"): START})).entries) == []
