"""The live socket against a gateway that answers, breaks off and comes back as told."""

from __future__ import annotations

import asyncio
import struct

import pytest

import longlook_client as lib
from longlook_client import AsyncClient, AsyncLiveSession, AsyncSession
from tests.clients.fake_gateway import HEALTH, FakeGateway, Peer

pytestmark = pytest.mark.unit

JPEG = b"\xff\xd8\xff\xe0 picture"


async def open_session(client: AsyncClient) -> AsyncSession:
    return await client.create_session()


async def ask(live: AsyncLiveSession, peer: Peer, question_id: str = "q1") -> lib.AsyncAnswer:
    """Asks, and has the gateway accept it."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(live.ask("what?", id=question_id))
        created = await peer.hears("question.create")
        await peer.say("question.accepted", id=created["id"])
    return asking.result()


async def delta(peer: Peer, n: int, text: str, question_id: str = "q1") -> None:
    await peer.say("answer.delta", id=question_id, index=n, text=text, token_ids=[n], event_id=f"1-{n + 1}")


async def test_pictures_carry_track_sequence_and_capture_time(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        assert await live.send_picture(JPEG, 1.5)
        assert await live.send_picture(JPEG, 1.75)
        assert await live.send_h264(b"\x00\x00\x00\x01unit", 2.0, track=3)
        heads = [struct.unpack("!BBHIq", (await peer.hears_chunk())[:16]) for _ in range(3)]
    assert heads == [(1, 1, 0, 0, 1_500_000), (1, 1, 0, 1, 1_750_000), (1, 5, 3, 0, 2_000_000)]
    assert live.stats.sent == 3


async def test_sound_of_another_rate_opens_its_track_once(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        await live.send_pcm(b"\0\0", 0.0, rate=48000, channels=2)
        await live.send_pcm(b"\0\0", 0.1, rate=48000, channels=2)
        opened = await peer.hears("track.open")
        assert (opened["track"], opened["rate"], opened["channels"]) == (1, 48000, 2)
        assert (await peer.hears_chunk())[1] == (await peer.hears_chunk())[1] == 4


async def test_answer_streams_and_gives_its_result(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        await peer.say("answer.started", id="q1", as_of_ms=900, mode="frozen", event_id="1-1")
        await delta(peer, 1, "a ")
        await delta(peer, 2, "ball")
        await peer.say("answer.done", id="q1", text="a ball", finish_reason="stop", event_id="1-9")
        assert [piece.text async for piece in answer] == ["a ", "ball"]
        result = await answer.result()
        assert (result.text, result.question, answer.as_of_ms) == ("a ball", "what?", 900)
        assert [piece.text async for piece in answer] == ["a ", "ball"]


async def test_cancel_reaches_the_server_and_ends_the_answer(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        await answer.cancel()
        assert (await peer.hears("question.cancel"))["id"] == "q1"
        await peer.say("answer.done", id="q1", text="a", finish_reason="cancelled")
        assert (await answer.result()).status == "cancelled"


async def test_refused_question_raises_and_others_go_on(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        refused = asyncio.create_task(live.ask("long", id="q2"))
        await peer.hears("question.create")
        await peer.say("error", id="q2", error={"code": "question_too_long", "message": "too long"})
        with pytest.raises(lib.TooLargeError):
            await refused
        await peer.say("answer.done", id="q1", text="a ball", finish_reason="stop")
        assert (await answer.result()).text == "a ball"


async def test_error_without_a_name_is_the_only_open_questions(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        refused = asyncio.create_task(live.ask("x" * 1000))
        await peer.hears("question.create")
        await peer.say("error", error={"code": "too_large", "message": "too large"})
        with pytest.raises(lib.TooLargeError):
            await refused


async def test_failed_answer_raises_everywhere(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        await peer.say("answer.failed", id="q1", error={"code": "log_lost", "message": "lost"})
        with pytest.raises(lib.AnswerError, match="lost"):
            await answer.result()
        with pytest.raises(lib.AnswerError, match="lost"):
            _ = [piece async for piece in answer]


async def test_health_notices_and_media_errors_come_as_events(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        await peer.say("session.health", **HEALTH)
        await peer.say("notice", code="frames_dropped", message="slow", data={"count": 3})
        await peer.say("error", error={"code": "bad_media", "message": "no picture"}, track=0, sequence=4)
        events = live.events()
        health, notice, error = [await anext(events) for _ in range(3)]
    assert isinstance(health, lib.Health)
    assert (health.dropped, live.health) == ({"sampler": 2}, health)
    assert notice == lib.Notice("frames_dropped", "slow", {"count": 3})
    assert isinstance(error, lib.BadRequestError)
    assert [event async for event in events] == []


async def test_reconnect_resumes_with_token_and_event_and_repeats_no_delta(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    async with (await open_session(client)).live() as live:
        first = await gateway.peer()
        answer = await ask(live, first)
        await delta(first, 0, "a ")
        await delta(first, 1, "red ")
        await anext(aiter(answer))
        await first.hang_up(1012)
        second = await gateway.peer()
        assert second.query["token"] != first.query["token"]
        assert second.query["last_event_id"] == "1-2"
        await delta(second, 1, "red ")
        await delta(second, 2, "ball")
        await second.say("answer.done", id="q1", text="a red ball", finish_reason="stop")
        assert [piece.text async for piece in answer] == ["a ", "red ", "ball"]
        assert live.reconnects == 1
    assert not any(path.endswith("/connect") for _, path, _, _ in gateway.requests)


async def test_reconnect_before_any_event_asks_for_all_of_them(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        first = await gateway.peer()
        assert "last_event_id" not in first.query
        answer = await ask(live, first)
        await first.hang_up(1012)
        second = await gateway.peer()
        assert second.query["last_event_id"] == "0-0"
        await second.say("answer.done", id="q1", text="all of it", finish_reason="stop", event_id="1-3")
        assert (await answer.result()).text == "all of it"


async def test_used_resume_token_is_replaced_by_the_key(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live():
        first = await gateway.peer()
        gateway.tokens.clear()
        await first.hang_up(1012)
        await gateway.peer()
    assert any(path.endswith("/connect") for _, path, _, _ in gateway.requests)


async def test_unaccepted_question_is_asked_again_after_reconnect(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live, asyncio.TaskGroup() as group:
        first = await gateway.peer()
        asking = group.create_task(live.ask("what?", id="q7"))
        await first.hears("question.create")
        await first.hang_up(1012)
        second = await gateway.peer()
        assert (await second.hears("question.create"))["id"] == "q7"
        await second.say("error", id="q7", error={"code": "conflict", "message": "known"})
        answer = await asking
        await second.say("answer.done", id="q7", text="yes", finish_reason="stop")
        assert (await answer.result()).text == "yes"


async def test_complete_session_sends_unconfirmed_chunks_again(gateway: FakeGateway, client: AsyncClient) -> None:
    gateway.ingest = "complete"
    async with (await open_session(client)).live() as live:
        first = await gateway.peer()
        for second in range(3):
            await live.send_picture(JPEG, float(second))
            await first.hears_chunk()
        await first.say("media.ack", track=0, sequence=0, received=1)
        await first.say("notice", code="seen")
        await anext(live.events())
        await first.hang_up(1012)
        again = await gateway.peer()
        sequences = [struct.unpack("!BBHIq", (await again.hears_chunk())[:16])[3] for _ in range(2)]
        assert sequences == [1, 2]
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(live.end_media())
            await again.hears("media.end")
            assert not ending.done()
            await again.say("media.ack", track=0, sequence=2, received=3)


async def test_live_session_counts_what_it_drops_without_a_connection(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    async with (await open_session(client)).live(reconnect_for=30) as live:
        peer = await gateway.peer()
        gateway.refusals = [(503, "starting")] * 3
        await peer.hang_up(1012)
        assert await anext(live.events()) == lib.Connection(False)
        assert not await live.send_picture(JPEG)
        assert live.stats.dropped == 1
        await gateway.peer()
        assert await anext(live.events()) == lib.Connection(True)


@pytest.mark.parametrize(
    ("close", "kind"),
    [
        (4401, lib.AuthenticationError),
        (4404, lib.NotFoundError),
        (4409, lib.SessionClosedError),
        (4410, lib.SessionClosedError),
        (1007, lib.ProtocolError),
        (1009, lib.TooLargeError),
    ],
)
async def test_final_close_fails_answers_and_sending(
    gateway: FakeGateway, client: AsyncClient, close: int, kind: type[lib.LonglookError]
) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        await peer.hang_up(close)
        with pytest.raises(kind):
            await answer.result()
        with pytest.raises(kind):
            await live.send_picture(JPEG)


async def test_session_gone_after_reconnect_is_final(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        gateway.refusals = [(404, "not_found")]
        await peer.hang_up(1012)
        with pytest.raises(lib.NotFoundError):
            await answer.result()


async def test_outage_has_a_limit(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live(reconnect_for=0.05) as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        gateway.refusals = [(503, "starting")] * 50
        await peer.hang_up(1012)
        with pytest.raises(lib.ConnectError, match="did not come back"):
            await answer.result()


async def test_refused_first_connection_raises_on_entering(gateway: FakeGateway, client: AsyncClient) -> None:
    session = await open_session(client)
    gateway.refusals = [(404, "not_found")]
    with pytest.raises(lib.NotFoundError):
        async with session.live():
            pytest.fail("must not be entered")


async def test_error_in_the_body_comes_out_as_it_is(gateway: FakeGateway, client: AsyncClient) -> None:
    session = await open_session(client)
    with pytest.raises(ZeroDivisionError):
        async with session.live():
            _ = 1 / 0


async def test_event_without_its_fields_is_a_protocol_error(gateway: FakeGateway, client: AsyncClient) -> None:
    async with (await open_session(client)).live() as live:
        peer = await gateway.peer()
        answer = await ask(live, peer)
        await peer.say_raw('{"type": "answer.delta"}')
        with pytest.raises(lib.ProtocolError):
            await answer.result()
