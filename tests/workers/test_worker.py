"""The worker over a real server, with an engine that needs no model."""

import io

import pytest
from PIL import Image

from protocol.bus import Bus
from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerFailed,
    AnswerStarted,
    Closed,
    Notice,
    Owned,
    Sound,
)
from tests.workers.fake_engine import FakeEngine
from tests.workers.stage import SESSION, Client, jpeg, make_ask, make_picture, make_spec, place, running, until
from workers.engine.messages import CloseSession, EndMedia, PushFrame

pytestmark = pytest.mark.conformance


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


async def test_a_live_session_drops_what_is_too_much_and_keeps_the_newest(bus: Bus) -> None:
    engine = FakeEngine(hold_frames=True)
    async with running(bus, engine, frames_under_way=2) as worker:
        await place(bus, make_spec())
        client = Client(bus)
        await client.said(Owned)
        await client.show(*(make_picture(n) for n in range(1, 21)))

        async def all_read() -> bool:
            return (await bus.lanes.backlog(SESSION))["video"] == 0

        await until(all_read)
        engine.release_frames()
        await bus.lanes.ask(SESSION, make_ask(at_ms=20_000))
        await client.said(AnswerDone)
        assert worker.sessions == [SESSION]
    session = engine.last_session()
    assert len(session.times) < 20
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
