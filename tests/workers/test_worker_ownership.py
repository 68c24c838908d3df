"""Sessions change hands: two workers, drains, crashes, pauses, and a server that forgets."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import BusUnavailable, NotFound, Starting
from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerStarted,
    Owned,
)
from protocol.retention import Retention
from tests.conformance.servers import Server
from tests.workers.fake_engine import CARD, FakeEngine
from tests.workers.stage import (
    OTHER,
    SESSION,
    Client,
    advertised,
    make_ask,
    make_picture,
    make_spec,
    place,
    running,
    until,
)
from workers.engine.client import EngineDied
from workers.settings import Settings
from workers.worker import Worker

pytestmark = pytest.mark.conformance


async def test_two_workers_never_own_the_same_session(bus: Bus) -> None:
    first, second = FakeEngine(), FakeEngine()
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(running(bus, first, "w_a")),
            await stack.enter_async_context(running(bus, second, "w_b")),
        ]
        names = [f"s_{n:024x}" for n in range(8)]
        for name in names:
            await place(bus, make_spec(name))
            for worker_id in ("w_a", "w_b"):
                await bus.placement.call(worker_id, name)
        for name in names:
            await Client(bus, name).said(Owned)
            await bus.lanes.ask(name, make_ask())
            said = await Client(bus, name).said(AnswerDone)
            assert [type(output) for output in said].count(Owned) == 1
        held = sorted(session for worker in workers for session in worker.sessions)
        assert held == names


async def test_a_drained_worker_lets_the_answer_end_and_hands_over(bus: Bus) -> None:
    engine, heir = FakeEngine(pause_after=1), FakeEngine()
    async with AsyncExitStack() as stack:
        worker = Worker(bus, engine, Settings(), "w_a")
        task = asyncio.create_task(worker.run())
        await advertised(bus, "w_a")
        await place(bus, make_spec())
        client = Client(bus)
        await client.show(make_picture(1), make_picture(2))
        await bus.lanes.ask(SESSION, make_ask(at_ms=2000))
        await client.said(AnswerDelta)
        worker.stop()

        async def refusing() -> bool:
            states = await bus.placement.workers()
            return all(state.card.draining for state in states)

        await until(refusing)
        engine.resume()
        await task
        said = await client.said(AnswerDone)
        assert [output.text for output in said if isinstance(output, AnswerDone)] == ["2 red ball"]
        with pytest.raises(Starting):
            await bus.placement.reserve(CARD.name, OTHER, 64)

        await stack.enter_async_context(running(bus, heir, "w_b"))
        newest = await bus.outputs.newest(SESSION)
        await bus.lanes.ask(SESSION, make_ask("q2", at_ms=2000))
        said = await client.said(AnswerDone, after=newest)
        assert [output.text for output in said if isinstance(output, AnswerDone)] == ["2 red ball"]
    assert heir.last_session().times == [1000, 2000]


async def test_after_a_crash_the_session_is_rebuilt_and_the_answer_goes_on(bus: Bus, server: Server) -> None:
    doomed, heir = FakeEngine(pause_after=1), FakeEngine()
    worker = Worker(bus, doomed, Settings(), "w_a")
    task = asyncio.create_task(worker.run())
    await advertised(bus, "w_a")
    await place(bus, make_spec())
    client = Client(bus)
    await client.show(*(make_picture(n) for n in range(1, 31)))
    await bus.lanes.ask(SESSION, make_ask(at_ms=30_000))
    await client.said(AnswerDelta)
    await bus.lanes.ask(SESSION, make_ask("q2", at_ms=30_000))
    await bus.lanes.ask(SESSION, make_ask("q3", at_ms=30_000))
    await bus.lanes.cancel(SESSION, "q3")
    doomed.die()
    with pytest.raises(ExceptionGroup) as died:
        await task
    assert died.group_contains(EngineDied, depth=None) or died.value.subgroup(EngineDied)

    async with running(bus, heir, "w_b"):

        async def all_answered() -> bool:
            outcomes = [(await bus.outputs.question(SESSION, name)).outcome for name in ("q1", "q2", "q3")]
            return all(outcomes)

        await until(all_answered)
        said = await client.said(Owned)
    owners = [output for output in said if isinstance(output, Owned)]
    assert [(owner.worker_id, owner.lost_ms) for owner in owners] == [("w_a", 0), ("w_b", 1000)]
    assert heir.last_session().times == [n * 1000 for n in range(1, 31)]
    for question_id in ("q1", "q2"):
        indices = [
            output.index for output in said if isinstance(output, AnswerDelta) and output.question_id == question_id
        ]
        assert indices == [0, 1, 2]
    starts = [output.question_id for output in said if isinstance(output, AnswerStarted)]
    assert sorted(starts) == ["q1", "q2"]
    third = (await bus.outputs.question(SESSION, "q3")).outcome
    assert isinstance(third, AnswerDone)
    assert third.finish_reason == "cancelled"


async def test_what_was_asked_and_remembered_is_rebuilt_in_its_place(bus: Bus) -> None:
    first, heir = FakeEngine(), FakeEngine()
    async with running(bus, first, "w_a"):
        await place(bus, make_spec())
        client = Client(bus)
        for n, (question, remember) in enumerate([("q1", True), ("q2", False), ("q3", True)], 1):
            await client.show(make_picture(n))
            ask = make_ask(question, at_ms=n * 1000, text=f"ball {n}", remember=remember)
            await bus.lanes.ask(SESSION, ask)
            await client.answered(question)
        await client.show(make_picture(4))
    async with running(bus, heir, "w_b"):
        await bus.lanes.ask(SESSION, make_ask("q4", at_ms=4000))
        await client.answered("q4")
    turns = [(turn.at_ms, turn.question, turn.answer) for turn in heir.last_session().turns]
    assert turns == [(1000, "ball 1", (0, 1, 2)), (3000, "ball 3", (0, 1, 2))]
    assert heir.last_session().times == [1000, 2000, 3000, 4000]


async def test_what_was_said_outlives_the_pictures(bus: Bus, server: Server) -> None:
    heir = FakeEngine()
    async with running(bus, FakeEngine(), "w_a"):
        await place(bus, make_spec())
        client = Client(bus)
        await client.show(make_picture(1))
        await bus.lanes.ask(SESSION, make_ask(at_ms=1000))
        await client.answered("q1")
    connection = Connection(server.url)
    await connection.command("DEL", keys.lane(SESSION, "video"))
    await connection.aclose()
    async with running(bus, heir, "w_b"):
        newest = await client.said(Owned)
        await bus.lanes.ask(SESSION, make_ask("q2", at_ms=1000))
        await client.answered("q2")
    assert [output.lost_ms for output in newest if isinstance(output, Owned)][:1] == [0]
    assert [(turn.at_ms, turn.question) for turn in heir.last_session().turns] == [(-1, "red ball")]


async def test_a_paused_owner_drops_the_session_when_another_has_it(bus: Bus, server: Server) -> None:
    engine = FakeEngine(pause_after=1)
    async with running(bus, engine) as worker:
        await place(bus, make_spec())
        client = Client(bus)
        await bus.lanes.ask(SESSION, make_ask())
        await client.said(AnswerDelta)
        connection = Connection(server.url)
        await connection.command("DEL", keys.lease(SESSION))
        lease = await bus.leases.acquire(SESSION, "w_b")
        await bus.outputs.append(SESSION, lease.epoch, [(0, Owned(worker_id="w_b"))])
        engine.resume()

        async def dropped() -> bool:
            return worker.sessions == []

        await until(dropped)
        said = [event.output for event in await bus.outputs.since(SESSION)]
        assert said[-1] == Owned(worker_id="w_b")
        await connection.aclose()


async def test_a_server_that_forgot_everything_costs_the_sessions_not_the_worker(bus: Bus, server: Server) -> None:
    async with running(bus, FakeEngine()) as worker:
        await place(bus, make_spec())
        await Client(bus).said(Owned)
        connection = Connection(server.url)
        await connection.command("FLUSHALL")
        await connection.aclose()

        async def dropped() -> bool:
            return worker.sessions == []

        await until(dropped)
        with pytest.raises(NotFound):
            await bus.sessions.get(SESSION)
        await advertised(bus, "w_a")
        await place(bus, make_spec(OTHER))
        await Client(bus, OTHER).said(Owned)


async def test_a_bus_that_pauses_for_longer_than_the_lease_costs_nothing(server: Server, bus: Bus) -> None:
    short = await Bus.connect(server.url, Retention(lease_ms=1000))
    async with running(short, FakeEngine()) as worker:
        await place(short, make_spec())
        client = Client(short)
        await client.said(Owned)
        await client.show(make_picture(1))
        connection = Connection(server.url)
        await connection.command("CLIENT", "PAUSE", 2500)
        await connection.aclose()

        async def answered() -> bool:
            try:
                await short.lanes.ask(SESSION, ask)
            except BusUnavailable:
                return False
            return True

        ask = make_ask(at_ms=1000)
        await until(answered)
        said = await client.said(AnswerDone)
        assert [type(output) for output in said].count(Owned) == 1
        assert worker.sessions == [SESSION]
    await short.aclose()


async def test_a_session_whose_lease_has_a_moment_left_is_taken_with_the_next_beat(bus: Bus, server: Server) -> None:
    connection = Connection(server.url)
    await bus.sessions.open(make_spec(), "w_a")
    await bus.leases.acquire(SESSION, "w_a")
    await bus.placement.vacate("w_a", CARD.name, SESSION, "orphan")  # looked for, though its lease still stands
    async with running(bus, FakeEngine(), "w_b") as worker:
        await asyncio.sleep(1.2)  # a beat goes by: there is no event for what a worker leaves alone
        assert await connection.command("ZSCORE", keys.owned(CARD.name), SESSION) == 0
        await connection.command("DEL", keys.lease(SESSION))

        async def taken() -> bool:
            return worker.sessions == [SESSION]

        await until(taken)
    await connection.aclose()
