"""What a new owner finds of the answers that the one before had begun."""

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.messages import AnswerDelta, AnswerDone, AnswerFailed, AnswerStarted, Output, Owned
from tests.conformance.servers import Server
from tests.workers.fake_engine import FakeEngine
from tests.workers.stage import SESSION, Client, make_ask, make_spec, place, running, until
from workers.takeover import published_tokens

pytestmark = pytest.mark.conformance

LONG = 12_000  # tokens of one answer: more than one page of the stream


def delta(index: int) -> AnswerDelta:
    return AnswerDelta(question_id="q1", index=index, token_ids=[index], text="")


async def owned_before(bus: Bus, *outputs: Output) -> None:
    """A session whose owner has said this and then gave it up, with the question q1 open."""
    await bus.sessions.open(make_spec(), "w_a")
    lease = await bus.leases.acquire(SESSION, "w_a")
    await bus.lanes.ask(SESSION, make_ask())
    said = list(enumerate([Owned(worker_id="w_a"), *outputs]))
    for start in range(0, len(said), 100):
        await bus.outputs.append(SESSION, lease.epoch, said[start : start + 100])
    await bus.leases.release(lease)


async def test_all_tokens_of_a_long_answer_are_found(bus: Bus) -> None:
    await owned_before(bus, AnswerStarted(question_id="q1", as_of_ms=0, mode="frozen"), *map(delta, range(LONG)))
    assert await published_tokens(bus, SESSION, ["q1"]) == {"q1": tuple(range(LONG))}
    assert await published_tokens(bus, SESSION, ["q2"]) == {}


async def test_an_answer_whose_beginning_is_gone_is_given_up_and_not_begun_again(bus: Bus, server: Server) -> None:
    await owned_before(bus, AnswerStarted(question_id="q1", as_of_ms=0, mode="frozen"), delta(0), delta(1))
    connection = Connection(server.url)
    await connection.command("XTRIM", keys.output(SESSION), "MAXLEN", 0)
    await connection.aclose()
    assert await given_up(bus) == "worker_lost"
    said = [event.output for event in await bus.outputs.since(SESSION)]
    assert {output.question_id for output in said if isinstance(output, AnswerDelta)} == {"q2"}


async def test_a_question_that_is_kept_no_longer_costs_no_session(bus: Bus, server: Server) -> None:
    await owned_before(bus)
    connection = Connection(server.url)
    await connection.command("DEL", keys.question(SESSION, "q1"))
    await connection.aclose()
    assert await given_up(bus) == "worker_lost"


async def given_up(bus: Bus) -> str:
    """Another worker takes the session: why q1 ends, and the session goes on."""
    async with running(bus, FakeEngine(), "w_b") as worker:
        await place(bus, make_spec())

        async def taken() -> bool:
            return worker.sessions == [SESSION]

        await until(taken)
        said = await Client(bus).said(AnswerFailed)
        await bus.lanes.ask(SESSION, make_ask("q2"))
        await Client(bus).said(AnswerDone)
        (failed,) = [output for output in said if isinstance(output, AnswerFailed)]
        return failed.code
