"""The worker over a real server, with an engine that needs no model."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from PIL import Image

from launcher.valkey import bundled_binary
from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import BusUnavailable, NotFound, Starting
from protocol.ids import START, EntryId
from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerFailed,
    AnswerStarted,
    Ask,
    Closed,
    Notice,
    Output,
    Owned,
    Picture,
    SessionSpec,
    Sound,
)
from protocol.retention import Retention
from tests.conformance.servers import Server
from tests.workers.fake_engine import CARD, FakeEngine
from workers.engine.client import EngineDied
from workers.engine.messages import CloseSession, EndMedia, PushFrame
from workers.settings import Settings
from workers.worker import Worker

pytestmark = pytest.mark.conformance

SESSION = "s_0123456789abcdef01234567"
OTHER = "s_ffffffffffffffffffffffff"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(bundled_binary(), tmp_path_factory.mktemp("bus") / "s.sock") as server:
        yield server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    connection = Connection(server.url)
    await connection.command("FLUSHALL")
    bus = await Bus.connect(server.url)
    yield bus
    await bus.aclose()
    lasting = [key for key in await connection.command("KEYS", "*") if await connection.command("PTTL", key) == -1]
    await connection.aclose()
    assert lasting == [], "keys that never expire"


@asynccontextmanager
async def running(bus: Bus, engine: FakeEngine, worker_id: str = "w_a", **settings: float) -> AsyncIterator[Worker]:
    """A worker that runs inside the block and drains at its end."""
    made = Settings(**settings)  # type: ignore[arg-type]
    worker = Worker(bus, engine, made, worker_id)
    task = asyncio.create_task(worker.run())
    try:
        await advertised(bus, worker_id)
        yield worker
    finally:
        worker.stop()
        await task


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again until it holds; the limit only ends a test that has failed."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110  # there is nothing to wait on in another process
            await asyncio.sleep(0.01)


async def advertised(bus: Bus, worker_id: str) -> None:
    async def there() -> bool:
        return worker_id in [state.card.worker_id for state in await bus.placement.workers()]

    await until(there)


def make_spec(session_id: str = SESSION, *, complete: bool = False, policy: str = "window") -> SessionSpec:
    return SessionSpec(
        session_id=session_id,
        tenant="alice",
        model=CARD.name,
        fps=1.0,
        budget_tokens=64,
        policy=policy,
        instructions="be brief",
        ingest="complete" if complete else "live",
        created_at=1.0,
    )


async def place(bus: Bus, spec: SessionSpec) -> str:
    worker_id = await bus.placement.reserve(spec.model, spec.session_id, spec.budget_tokens)
    await bus.sessions.open(spec, worker_id)
    await bus.placement.call(worker_id, spec.session_id)
    return worker_id


def jpeg(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), (grey, grey, grey)).save(stream, "JPEG")
    return stream.getvalue()


def make_picture(sequence: int, *, data: bytes | None = None, arrived_at: float | None = None) -> Picture:
    return Picture(
        t_ms=sequence * 1000,
        track=1,
        sequence=sequence,
        width=32,
        height=16,
        jpeg=jpeg(sequence * 10) if data is None else data,
        arrived_at=time.time() if arrived_at is None else arrived_at,
    )


def make_ask(question_id: str = "q1", *, at_ms: int = 0, text: str = "red ball") -> Ask:
    return Ask(question_id=question_id, text=text, at_ms=at_ms, asked_at=time.time())


class Client:
    """A gateway's part in one session: publishes pictures, and collects what the session says."""

    def __init__(self, bus: Bus, session_id: str = SESSION, *, lossless: bool = False) -> None:
        self._bus = bus
        self._session_id = session_id
        self._lossless = lossless
        self._generation = 0
        self._sequence = 0

    async def show(self, *pictures: Picture) -> None:
        if not self._generation:
            self._generation = await self._bus.lanes.claim_publisher(self._session_id)
        for picture in pictures:
            self._sequence += 1
            await self._bus.lanes.append(
                self._session_id, self._generation, self._sequence, picture, lossless=self._lossless
            )

    async def said(self, kind: type[Output], *, after: EntryId = START) -> list[Output]:
        """Everything said so far, once something of ``kind`` is among it."""
        found: list[Output] = []

        async def there() -> bool:
            found[:] = [event.output for event in await self._bus.outputs.since(self._session_id, after)]
            return any(isinstance(output, kind) for output in found)

        await until(there)
        return found


async def test_a_session_goes_through_a_worker(bus: Bus) -> None:
    engine = FakeEngine()
    async with running(bus, engine):
        assert await place(bus, make_spec()) == "w_a"
        client = Client(bus)
        await client.said(Owned)
        await client.show(make_picture(1), make_picture(2))
        await bus.lanes.ask(SESSION, make_ask(at_ms=2000))
        said = await client.said(AnswerDone)
        assert [type(output) for output in said] == [
            *(Owned, AnswerStarted),
            *(AnswerDelta, AnswerDelta, AnswerDelta),
            AnswerDone,
        ]
        started, done = said[1], said[-1]
        assert isinstance(started, AnswerStarted)
        assert isinstance(done, AnswerDone)
        assert (started.as_of_ms, started.mode) == (2000, "frozen")
        assert (done.text, done.finish_reason, done.as_of_ms) == ("2 red ball", "stop", 2000)
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 3)
        assert 0 < done.timing.queued_ms <= done.timing.first_token_ms <= done.timing.total_ms
        assert (await bus.outputs.question(SESSION, "q1")).outcome == done
    session = engine.last_session()
    assert session.opened.instructions == "be brief"
    assert [round(grey, -1) for grey in session.greys] == [10, 20]


async def test_a_bad_picture_is_dropped_and_counted(bus: Bus) -> None:
    engine = FakeEngine()
    async with running(bus, engine):
        await place(bus, make_spec())
        client = Client(bus)
        wrong_size = io.BytesIO()
        Image.new("RGB", (8, 8)).save(wrong_size, "JPEG")
        await client.show(
            make_picture(1),
            make_picture(2, data=b"no picture"),
            make_picture(3, data=jpeg(30)[:-200]),
            make_picture(4, data=wrong_size.getvalue()),
            make_picture(5),
        )
        await bus.lanes.ask(SESSION, make_ask(at_ms=5000))
        done = (await client.said(AnswerDone))[-1]
        assert isinstance(done, AnswerDone)
        assert done.text.startswith("2 ")

        async def counted() -> bool:
            stats = (await bus.sessions.get(SESSION)).stats
            return (stats.frames_prefilled, stats.frames_dropped) == (2, {"undecodable": 3})

        await until(counted)
    assert engine.free_slots == 16


async def test_a_live_session_drops_what_is_too_old_and_keeps_the_newest(bus: Bus) -> None:
    engine = FakeEngine(hold_frames=True)
    async with running(bus, engine, frames_under_way=2) as worker:
        await place(bus, make_spec())
        client = Client(bus)
        await client.said(Owned)
        await client.show(make_picture(1, arrived_at=time.time() - 60))
        await client.show(*(make_picture(n) for n in range(2, 21)))

        async def all_read() -> bool:
            return (await bus.lanes.backlog(SESSION))["video"] == 0

        await until(all_read)
        engine.release_frames()
        await bus.lanes.ask(SESSION, make_ask(at_ms=20_000))
        await client.said(AnswerDone)
        assert worker.sessions == [SESSION]
    session = engine.last_session()
    assert 1000 not in session.times
    assert session.times[-1] == 20_000
    assert session.times == sorted(session.times)


async def test_a_complete_session_loses_nothing_and_holds_its_publisher_back(bus: Bus) -> None:
    engine = FakeEngine(hold_frames=True)
    async with running(bus, engine, frames_under_way=4):
        await place(bus, make_spec(complete=True))
        client = Client(bus, lossless=True)
        await client.said(Owned)
        await client.show(*(make_picture(n, arrived_at=1.0) for n in range(1, 41)))
        await bus.lanes.ask(SESSION, make_ask(at_ms=40_000))
        await bus.lanes.media_end(SESSION, 41_000)

        async def held() -> bool:
            return len([command for command in engine.commands if isinstance(command, PushFrame)]) == 4

        await until(held)
        assert (await bus.lanes.backlog(SESSION))["video"] > 10
        engine.release_frames()
        done = (await client.said(AnswerDone))[-1]
        assert isinstance(done, AnswerDone)
        assert done.text == "40 red ball"
    assert engine.last_session().times == [n * 1000 for n in range(1, 41)]


async def test_the_end_of_the_media_is_told_after_its_last_picture(bus: Bus) -> None:
    engine = FakeEngine()
    async with running(bus, engine):
        await place(bus, make_spec(complete=True))
        client = Client(bus, lossless=True)
        await bus.lanes.ask(SESSION, make_ask(at_ms=90_000))
        await client.show(*(make_picture(n) for n in range(1, 31)))
        await bus.lanes.media_end(SESSION, 95_000)
        done = (await client.said(AnswerDone))[-1]
        assert isinstance(done, AnswerDone)
        assert done.text == "30 red ball"
    pushed_or_ended = [command for command in engine.commands if isinstance(command, PushFrame | EndMedia)]
    assert [type(command) for command in pushed_or_ended] == [PushFrame] * 30 + [EndMedia]


async def test_sound_is_counted_and_noted_once(bus: Bus) -> None:
    async with running(bus, FakeEngine()):
        await place(bus, make_spec())
        generation = await bus.lanes.claim_publisher(SESSION)
        for n in range(1, 6):
            sound = Sound(t_ms=n * 100, track=2, sequence=n, pcm=bytes(3200), arrived_at=1.0)
            await bus.lanes.append(SESSION, generation, n, sound, lossless=False)

        async def heard() -> bool:
            return (await bus.sessions.get(SESSION)).stats.audio_ms == 500

        await until(heard)
        said = await Client(bus).said(Notice)
        assert [output.code for output in said if isinstance(output, Notice)] == ["audio_not_understood"]


async def test_a_question_asked_twice_is_answered_once(bus: Bus) -> None:
    async with running(bus, FakeEngine()):
        await place(bus, make_spec())
        ask = make_ask()
        await bus.lanes.ask(SESSION, ask)
        await bus.lanes.ask(SESSION, ask)
        await bus.lanes.ask(SESSION, make_ask("q2"))
        client = Client(bus)

        async def both() -> bool:
            done = [output for output in await client.said(AnswerDone) if isinstance(output, AnswerDone)]
            return [output.question_id for output in done] == ["q1", "q2"]

        await until(both)


async def test_a_cancelled_answer_ends_as_cancelled(bus: Bus) -> None:
    engine = FakeEngine(pause_after=1)
    async with running(bus, engine):
        await place(bus, make_spec())
        await bus.lanes.ask(SESSION, make_ask())
        client = Client(bus)
        await client.said(AnswerDelta)
        await bus.lanes.cancel(SESSION, "q1")
        done = (await client.said(AnswerDone))[-1]
        assert isinstance(done, AnswerDone)
        assert done.finish_reason == "cancelled"


async def test_closing_ends_open_questions_and_frees_the_room(bus: Bus) -> None:
    engine = FakeEngine(pause_after=1)
    async with running(bus, engine) as worker:
        await place(bus, make_spec())
        await bus.lanes.ask(SESSION, make_ask())
        client = Client(bus)
        await client.said(AnswerDelta)
        await bus.lanes.close(SESSION, "client")
        said = await client.said(Closed)
        assert said[-1] == Closed(reason="client")
        assert isinstance(said[-2], AnswerFailed)
        assert said[-2].code == "session_closed"

        async def left() -> bool:
            states = await bus.placement.workers()
            return not worker.sessions and states[0].reserved_tokens == 0

        await until(left)
        assert (await bus.sessions.get(SESSION)).state == "closed"
    assert any(isinstance(command, CloseSession) for command in engine.commands)


async def test_a_session_that_the_engine_refuses_is_closed_with_the_reason(bus: Bus) -> None:
    async with running(bus, FakeEngine()):
        await place(bus, make_spec(policy="hoard"))
        assert (await Client(bus).said(Closed))[-1] == Closed(reason="unknown_policy")


async def test_an_idle_session_is_closed(bus: Bus) -> None:
    async with running(bus, FakeEngine(), idle_s=0.001):
        await place(bus, make_spec())
        assert (await Client(bus).said(Closed))[-1] == Closed(reason="idle")


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
