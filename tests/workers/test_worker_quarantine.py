"""A session that ends the engine each time it is worked on: the others' workers get rid of it, and it is told why."""

import asyncio

import pytest

from protocol.bus import Bus
from protocol.messages import AnswerDone, AnswerFailed, Closed, Owned
from tests.workers.fake_engine import FakeEngine
from tests.workers.stage import OTHER, SESSION, Client, advertised, make_ask, make_picture, make_spec, place, running
from workers.engine.client import EngineDied
from workers.engine.messages import Command, OpenSession, PushFrame
from workers.settings import Settings
from workers.worker import Worker

pytestmark = pytest.mark.conformance

POISON_MS = 3000


class FragileEngine(FakeEngine):
    """Dies over one picture of one session, while others' work is under way too."""

    async def send(self, command: Command) -> None:
        if isinstance(command, PushFrame):
            others = [name for name in self.sessions if not self.sessions[name].opened.alone]
            alone = self.sessions[command.session_id].opened.alone
            self.working = [command.session_id] if alone else others
            if command.t_ms == POISON_MS and command.session_id.startswith(SESSION):
                self.die()
        await super().send(command)


async def until_it_dies(bus: Bus, number: int) -> FragileEngine:
    engine = FragileEngine()
    with pytest.raises(ExceptionGroup) as died:
        await Worker(bus, engine, Settings(), f"w_{number}").run()
    assert died.value.subgroup(EngineDied) is not None
    return engine


async def test_a_session_that_no_engine_survives_is_quarantined_and_the_others_go_on(bus: Bus) -> None:
    first = asyncio.create_task(until_it_dies(bus, 1))
    await advertised(bus, "w_1")
    await place(bus, make_spec())
    await place(bus, make_spec(OTHER))
    client, other = Client(bus), Client(bus, OTHER)
    await client.said(Owned)
    await other.said(Owned)
    await other.show(make_picture(1))
    await bus.lanes.ask(SESSION, make_ask(at_ms=POISON_MS))
    await client.show(*(make_picture(n) for n in (1, 2, 3)))
    await first
    opened = [(await until_it_dies(bus, number)).sessions for number in (2, 3)]
    for sessions in opened:
        assert all(session.opened.alone for session in sessions.values()), "both were under way when the first died"
    last = FragileEngine()
    async with running(bus, last, "w_4") as worker:
        said = await client.said(Closed)
        assert said[-1] == Closed(reason="quarantined")
        (failed,) = [output for output in said if isinstance(output, AnswerFailed)]
        assert (failed.question_id, failed.code) == ("q1", "quarantined")
        await other.show(make_picture(2))
        await bus.lanes.ask(OTHER, make_ask("q2", at_ms=2000))
        assert isinstance(await other.answered("q2"), AnswerDone)
        assert worker.sessions == [OTHER]
    assert not any(isinstance(c, OpenSession) and c.session_id.startswith(SESSION) for c in last.commands)
    assert (await bus.leases.acquire(OTHER, "w_5")).crashes == 1


async def test_an_engine_that_dies_over_nothing_accuses_nobody(bus: Bus) -> None:
    engine = FakeEngine()
    task = asyncio.create_task(Worker(bus, engine, Settings(), "w_1").run())
    await advertised(bus, "w_1")
    await place(bus, make_spec())
    await Client(bus).said(Owned)
    engine.die()
    with pytest.raises(ExceptionGroup):
        await task
    assert (await bus.leases.acquire(SESSION, "w_2")).crashes == 0
