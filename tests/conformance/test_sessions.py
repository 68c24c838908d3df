import pytest
from msgspec.structs import replace

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import Conflict, NotFound
from protocol.ids import EntryId
from protocol.leases import Lease
from protocol.messages import AnswerDelta, Closed, IngestStats, Output
from tests.conformance.samples import OTHER, SESSION, make_ask, make_picture, make_spec, until_expired

pytestmark = pytest.mark.conformance


async def test_a_session_goes_through_its_states(bus: Bus, connection: Connection) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    assert (await bus.sessions.get(SESSION)).state == "starting"
    lease = await bus.leases.acquire(SESSION, "w_a")
    assert (await bus.sessions.get(SESSION)).state == "live"
    await until_expired(connection, keys.lease(SESSION))
    assert (await bus.sessions.get(SESSION)).state == "waiting"
    lease = await bus.leases.acquire(SESSION, "w_b")
    await bus.lanes.close(SESSION, "client")
    assert (await bus.sessions.get(SESSION)).state == "closing"
    assert await bus.sessions.finish(SESSION, "client", worker_id="w_b", epoch=lease.epoch) is True
    record = await bus.sessions.get(SESSION)
    assert (record.state, record.reason, record.spec) == ("closed", "client", make_spec())


async def test_opening_twice_is_one_session(bus: Bus) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    await bus.sessions.open(make_spec(), "w_a")
    with pytest.raises(Conflict):
        await bus.sessions.open(make_spec(tenant="bob"), "w_a")


async def test_finishing_leaves_the_record_and_the_outputs_only(bus: Bus, owned: Lease, connection: Connection) -> None:
    generation = await bus.lanes.claim_publisher(SESSION)
    await bus.lanes.append(SESSION, generation, 1, make_picture(1), lossless=False)
    await bus.lanes.ask(SESSION, make_ask())
    await bus.sessions.finish(SESSION, "idle", worker_id="w_a", epoch=owned.epoch)
    assert [event.output for event in await bus.outputs.since(SESSION, EntryId(1, 0))] == [Closed(reason="idle")]
    left = {key.decode() for key in await connection.command("KEYS", f"ll:{{{SESSION}}}:*")}
    assert left == {
        keys.session(SESSION),
        keys.output(SESSION),
        keys.question(SESSION, "q1"),
        keys.questions(SESSION),
    }


@pytest.mark.parametrize("closed_before", [False, True])
async def test_erasing_leaves_no_word_of_the_session(
    bus: Bus, owned: Lease, connection: Connection, closed_before: bool
) -> None:
    await bus.lanes.ask(SESSION, make_ask())
    entries: list[tuple[int, Output]] = [(1, AnswerDelta(question_id="q1", index=0, token_ids=[7], text="planted"))]
    await bus.outputs.append(SESSION, owned.epoch, entries)
    if not closed_before:
        await bus.sessions.erase(owned.spec)
    await bus.sessions.finish(SESSION, "client", worker_id="w_a", epoch=owned.epoch)
    if closed_before:
        await bus.sessions.erase(owned.spec)
    assert [event.output for event in await bus.outputs.since(SESSION)] == [Closed(reason="client")]
    left = {key.decode() for key in await connection.command("KEYS", f"ll:{{{SESSION}}}:*")}
    assert left == {keys.session(SESSION), keys.output(SESSION)}
    record = await bus.sessions.get(SESSION)
    assert (record.state, record.spec) == ("closed", replace(make_spec(), instructions="", metadata={}))
    await bus.sessions.erase(replace(make_spec(), session_id=OTHER))


async def test_only_the_owner_finishes_an_owned_session(bus: Bus, owned: Lease) -> None:
    assert await bus.sessions.finish(SESSION, "client") is False
    assert await bus.sessions.finish(SESSION, "client", worker_id="w_b", epoch=owned.epoch) is False
    assert await bus.sessions.finish(SESSION, "client", worker_id="w_a", epoch=owned.epoch + 1) is False
    assert (await bus.sessions.get(SESSION)).state == "live"


async def test_a_session_that_nobody_owns_is_finished_by_anyone(bus: Bus) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    assert await bus.lanes.close(SESSION) is False
    assert await bus.sessions.finish(SESSION, "client") is True
    assert await bus.sessions.finish(SESSION, "client") is True
    assert [event.output for event in await bus.outputs.since(SESSION)] == [Closed(reason="client")]


async def test_a_tenant_sees_its_own_sessions_alone(bus: Bus, connection: Connection) -> None:
    await bus.sessions.open(make_spec(SESSION, tenant="alice", created_at=2.0), "w_a")
    await bus.sessions.open(make_spec("s_older", tenant="alice", created_at=1.0), "w_a")
    await bus.sessions.open(make_spec(OTHER, tenant="bob"), "w_a")
    assert [record.spec.session_id for record in await bus.sessions.of_tenant("alice")] == ["s_older", SESSION]
    await until_expired(connection, keys.session("s_older"))
    assert [record.spec.session_id for record in await bus.sessions.of_tenant("alice")] == [SESSION]
    assert await bus.sessions.of_tenant("carol") == []


async def test_the_gateway_publishes_its_half_of_the_health(bus: Bus, owned: Lease) -> None:
    stats = IngestStats(session_time_ms=1500, frames_in=3, frames_dropped={"late": 1}, origin_us=-5)
    await bus.sessions.publish_ingest(SESSION, stats)
    assert (await bus.sessions.get(SESSION)).ingest == stats
    await bus.sessions.publish_ingest("s_nowhere", stats)
    with pytest.raises(NotFound):
        await bus.sessions.get("s_nowhere")


async def test_an_idempotency_key_gives_the_first_value_again(bus: Bus) -> None:
    assert await bus.sessions.once("alice", "key", "digest", b"q1") is None
    assert await bus.sessions.once("alice", "key", "digest", b"q2") == b"q1"
    assert await bus.sessions.once("bob", "key", "digest", b"q3") is None
    with pytest.raises(Conflict):
        await bus.sessions.once("alice", "key", "other digest", b"q4")
    await bus.sessions.forget_once("alice", "key")
    assert await bus.sessions.once("alice", "key", "other digest", b"q5") is None
