import asyncio

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import NoCapacity, Starting, UnknownModel
from protocol.messages import WorkerCard
from protocol.placement import CALLS
from protocol.retention import Retention
from tests.conformance.samples import OTHER, SESSION, make_card, make_spec, until_expired

pytestmark = pytest.mark.conformance


async def test_without_any_worker_the_answer_is_starting(bus: Bus) -> None:
    with pytest.raises(Starting):
        await bus.placement.reserve("mini", SESSION, 100)
    assert await bus.placement.workers() == []


async def test_an_unknown_model_is_told_from_a_full_worker(bus: Bus) -> None:
    await bus.placement.advertise(make_card(capacity=100), {})
    with pytest.raises(UnknownModel):
        await bus.placement.reserve("grand", SESSION, 100)
    with pytest.raises(NoCapacity) as refused:
        await bus.placement.reserve("mini", SESSION, 101)
    assert refused.value.retry_after


async def test_room_is_never_given_twice(bus: Bus) -> None:
    await bus.placement.advertise(make_card("w_a", capacity=1000, sessions=100), {})
    await bus.placement.advertise(make_card("w_b", capacity=500, sessions=100), {})
    attempts = [bus.placement.reserve("mini", f"s_{n}", 100) for n in range(40)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(result for result in results if isinstance(result, str)) == ["w_a"] * 10 + ["w_b"] * 5
    assert sum(isinstance(result, NoCapacity) for result in results) == 25


async def test_the_least_loaded_worker_is_chosen(bus: Bus) -> None:
    for worker in ("w_a", "w_b", "w_c"):
        await bus.placement.advertise(make_card(worker), {})
    chosen = [await bus.placement.reserve("mini", f"s_{n}", 100) for n in range(6)]
    assert sorted(chosen) == ["w_a", "w_a", "w_b", "w_b", "w_c", "w_c"]


async def test_the_number_of_sessions_is_bounded(bus: Bus) -> None:
    await bus.placement.advertise(make_card(sessions=2), {})
    await bus.placement.reserve("mini", "s_1", 1)
    await bus.placement.reserve("mini", "s_2", 1)
    with pytest.raises(NoCapacity):
        await bus.placement.reserve("mini", "s_3", 1)


async def test_reserving_again_for_the_same_session_takes_no_more_room(bus: Bus) -> None:
    await bus.placement.advertise(make_card(capacity=100), {})
    assert await bus.placement.reserve("mini", SESSION, 100) == "w_a"
    assert await bus.placement.reserve("mini", SESSION, 100) == "w_a"


async def test_a_draining_worker_takes_nothing_but_is_no_stranger(bus: Bus) -> None:
    card = make_card()
    await bus.placement.advertise(card, {})
    draining = WorkerCard(
        worker_id=card.worker_id, model=card.model, capacity_tokens=4096, max_sessions=4, draining=True
    )
    await bus.placement.advertise(draining, {})
    with pytest.raises(NoCapacity):
        await bus.placement.reserve("mini", SESSION, 100)


async def test_a_retired_worker_is_gone(bus: Bus) -> None:
    await bus.placement.advertise(make_card(), {})
    await bus.placement.retire(make_card())
    with pytest.raises(Starting):
        await bus.placement.reserve("mini", SESSION, 100)


async def test_a_model_is_known_when_its_last_worker_is_gone(bus: Bus) -> None:
    card = make_card()
    await bus.placement.advertise(card, {})
    await bus.placement.retire(card)
    assert await bus.placement.model(card.model.name) == card.model
    assert await bus.placement.model("another") is None


async def test_room_comes_back(bus: Bus) -> None:
    await bus.placement.advertise(make_card(capacity=100), {})
    await bus.placement.reserve("mini", SESSION, 100)
    await bus.placement.vacate("w_a", "mini", SESSION, "closed")
    assert await bus.placement.reserve("mini", OTHER, 100) == "w_a"
    assert [(state.card, state.reserved_tokens) for state in await bus.placement.workers()] == [
        (make_card(capacity=100), 100)
    ]


async def test_one_may_ask_for_room_on_one_worker(bus: Bus) -> None:
    await bus.placement.advertise(make_card("w_a"), {})
    await bus.placement.advertise(make_card("w_b", capacity=10), {})
    assert await bus.placement.reserve("mini", SESSION, 10, worker_id="w_b") == "w_b"
    with pytest.raises(NoCapacity):
        await bus.placement.reserve("mini", OTHER, 10, worker_id="w_b")


async def test_owned_sessions_count_as_reserved(bus: Bus) -> None:
    await bus.placement.advertise(make_card(capacity=100), {SESSION: 60})
    with pytest.raises(NoCapacity):
        await bus.placement.reserve("mini", OTHER, 50)
    assert await bus.placement.reserve("mini", OTHER, 40) == "w_a"


async def test_a_session_given_up_is_an_orphan_at_once(bus: Bus) -> None:
    await bus.placement.advertise(make_card(), {SESSION: 10})
    assert await bus.placement.orphans("mini") == []
    await bus.placement.vacate("w_a", "mini", SESSION, "orphan")
    assert await bus.placement.orphans("mini") == [SESSION]
    await bus.placement.vacate("w_a", "mini", SESSION, "lost")
    assert await bus.placement.orphans("mini") == [SESSION]
    await bus.placement.strike("mini", SESSION)
    assert await bus.placement.orphans("mini") == []


async def test_a_session_is_looked_for_when_its_lease_has_run_out_and_no_later(
    bus: Bus, connection: Connection
) -> None:
    await bus.placement.advertise(make_card(), {SESSION: 10})
    await bus.placement.reserve("mini", OTHER, 10)
    await bus.placement.advertise(make_card("w_b"), {})
    await bus.placement.reserve("mini", "s_orphan", 10, worker_id="w_b")
    seconds, micros = await connection.command("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    lives = {
        name: float(await connection.command("ZSCORE", keys.owned("mini"), name)) - now
        for name in (SESSION, OTHER, "s_orphan")
    }
    assert max(lives[SESSION], lives[OTHER]) <= bus.retention.lease_ms
    assert lives["s_orphan"] <= bus.retention.adoption_ms  # else a lease that was not quite over would cost another one


class TestSilence:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(worker_ms=-1, lease_ms=-1, reservation_ms=-1)  # silent too long from the start

    async def test_a_silent_worker_takes_nothing_and_its_sessions_are_orphans(self, bus: Bus) -> None:
        await bus.placement.advertise(make_card(), {SESSION: 10})
        with pytest.raises(Starting):
            await bus.placement.reserve("mini", OTHER, 10)
        assert await bus.placement.orphans("mini") == [SESSION]

    async def test_a_reservation_that_nobody_took_up_lapses(self, bus: Bus, server_url: str) -> None:
        patient = await Bus.connect(server_url, Retention(reservation_ms=-1))
        await patient.placement.advertise(make_card(capacity=100), {})
        await patient.placement.reserve("mini", SESSION, 100)
        assert await patient.placement.reserve("mini", OTHER, 100) == "w_a"
        await patient.aclose()


async def test_a_call_outlives_no_reservation(bus: Bus, connection: Connection) -> None:
    await bus.sessions.open(make_spec(), "w_a")
    await bus.placement.call("w_a", SESSION)
    await until_expired(connection, keys.calls("w_a"))


async def test_calls_do_not_pile_up_on_a_worker_that_lasts(bus: Bus, connection: Connection) -> None:
    for _ in range(CALLS + 200):
        await bus.placement.call("w_a", SESSION)
    assert CALLS <= await connection.command("XLEN", keys.calls("w_a")) <= CALLS + 100
