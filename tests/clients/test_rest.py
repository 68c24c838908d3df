"""The REST half of the client against a gateway that answers as told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import longlook_client as lib
from longlook_client import AnswerResult, AsyncClient, Delta
from tests.clients.fake_gateway import KEY, FakeGateway, failure

pytestmark = pytest.mark.unit

QUESTIONS = "/v1/sessions/s1/questions"
DONE = {
    "id": "q1",
    "object": "answer",
    "status": "done",
    "text": "a red ball",
    "as_of_ms": 900,
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    "timing": {"total_ms": 12.0},
}


async def test_session_opens_with_the_given_settings_and_is_closed(gateway: FakeGateway, client: AsyncClient) -> None:
    async with await client.create_session(fps=2, ingest="complete", metadata={"camera": "door"}) as session:
        assert session.id == "s1"
        assert session.info is not None
        assert session.info.settings.budget_tokens == 1024
        assert session.info.metadata == {"camera": "door"}
        assert (await session.health()).memory.tokens == 320
    methods = [(method, path) for method, path, _, _ in gateway.requests]
    assert methods == [("POST", "/v1/sessions"), ("GET", "/v1/sessions/s1"), ("DELETE", "/v1/sessions/s1")]
    assert json.loads(gateway.requests[0][3]) == {"fps": 2, "ingest": "complete", "metadata": {"camera": "door"}}


async def test_closing_keeps_what_is_stored_and_deleting_does_not(gateway: FakeGateway, client: AsyncClient) -> None:
    stored = gateway.session() | {"stored": ["media", "frames", "texts"]}
    gateway.will_reply("POST", "/v1/sessions", (201, stored, {}))
    session = await client.create_session(store={"retention_hours": 24})
    assert json.loads(gateway.requests[0][3]) == {"store": {"retention_hours": 24}}
    await session.close()
    await session.delete()
    methods = [(method, path) for method, path, _, _ in gateway.requests]
    assert methods[1:] == [("POST", "/v1/sessions/s1/close"), ("DELETE", "/v1/sessions/s1")]


async def test_a_recording_is_read_as_frames_clips_and_texts(
    gateway: FakeGateway, client: AsyncClient, tmp_path: Path
) -> None:
    session = client.session("s1")
    gateway.will_reply("GET", "/v1/sessions/s1/frames", (200, {}, {"x-session-time-ms": "500", "x-track": "2"}))
    gateway.will_reply(
        "GET",
        "/v1/sessions/s1/clips",
        (200, {}, {"x-clip-start-ms": "90", "x-clip-source": "media"}),
        failure(404, "not_found"),
    )
    gateway.will_reply("GET", "/v1/sessions/s1/texts", (200, {"data": [{"kind": "answer"}]}, {}))
    assert await session.frame(700, width=64) == lib.Frame(b"{}", 500, 2)
    assert await session.clip(100, 900, tmp_path / "c.mp4", track=2) == lib.Clip(90, "media", 2)
    assert (tmp_path / "c.mp4").read_bytes() == b"{}"
    assert await session.texts(from_ms=3) == [{"kind": "answer"}]
    with pytest.raises(lib.NotFoundError):
        await session.clip(100, 900, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()
    queries = [path.partition("?")[2] for _, path, _, _ in gateway.requests]
    assert queries == ["at=700&width=64", "from=100&to=900&track=2", "from=3", "from=100&to=900"]


async def test_sources_are_added_told_and_removed(gateway: FakeGateway, client: AsyncClient) -> None:
    door = {"name": "door", "object": "source", "track": 1000, "state": "live", "error": None, "later": 1}
    gateway.will_reply("POST", "/v1/sessions/s1/sources", (201, door, {}))
    gateway.will_reply("GET", "/v1/sessions/s1/sources", (200, {"object": "list", "data": [door]}, {}))
    gateway.will_reply("DELETE", "/v1/sessions/s1/sources/door", (204, {}, {}))
    session = client.session("s1")
    added = await session.add_source("door", "rtsp://camera/1")
    assert [added] == await session.sources() == [lib.Source("door", track=1000, state="live")]
    await session.remove_source("door")
    assert json.loads(gateway.requests[0][3]) == {"name": "door", "url": "rtsp://camera/1"}
    assert [method for method, _, _, _ in gateway.requests] == ["POST", "GET", "DELETE"]


async def test_wrong_key_is_an_authentication_error(gateway: FakeGateway) -> None:
    async with AsyncClient(gateway.url, "wrong") as client:
        with pytest.raises(lib.AuthenticationError) as caught:
            await client.models()
    assert (caught.value.status, caught.value.request_id) == (401, "req-1")


async def test_nobody_there_is_a_connect_error() -> None:
    async with AsyncClient("http://127.0.0.1:9", KEY) as client:
        with pytest.raises(lib.ConnectError, match=r"127\.0\.0\.1:9"):
            await client.models()


async def test_create_session_waits_while_the_server_starts(gateway: FakeGateway, client: AsyncClient) -> None:
    starting = failure(503, "starting", **{"retry-after": "0.01"})
    gateway.will_reply("POST", "/v1/sessions", starting, starting, (201, gateway.session(), {}))
    with pytest.raises(lib.UnavailableError):
        await client.create_session()
    assert (await client.create_session(wait=5)).id == "s1"


async def test_ready_tells_starting_from_ready(gateway: FakeGateway, client: AsyncClient) -> None:
    gateway.will_reply("GET", "/readyz", failure(503, "starting"), (200, {"status": "ready"}, {}))
    assert not await client.ready()
    assert await client.ready()


async def test_models_and_sessions(gateway: FakeGateway, client: AsyncClient) -> None:
    card = {"id": "mini", "frame": {"width": 224, "height": 224, "tokens": 64}, "max_fps": 2.0, "later": None}
    gateway.will_reply("GET", "/v1/models", (200, {"object": "list", "data": [card]}, {}))
    gateway.will_reply("GET", "/v1/sessions", (200, {"object": "list", "data": [gateway.session()]}, {}))
    [model] = await client.models()
    assert (model.id, model.frame.tokens, model.max_fps) == ("mini", 64, 2.0)
    [info] = await client.sessions()
    assert (info.id, info.settings.fps) == ("s1", 1.0)


async def test_ask_sends_one_idempotent_question(gateway: FakeGateway, client: AsyncClient) -> None:
    gateway.will_reply("POST", QUESTIONS, (200, DONE, {}))
    result = await client.session("s1").ask("what is it?", id="q1", at_ms=900, mode="live")
    assert (result.text, result.as_of_ms, result.usage.completion_tokens) == ("a red ball", 900, 3)
    _, _, headers, body = gateway.requests[0]
    assert headers["idempotency-key"] == "q1"
    assert json.loads(body) == {"id": "q1", "question": "what is it?", "at_ms": 900, "mode": "live"}


async def test_ask_follows_an_answer_that_is_still_running(gateway: FakeGateway, client: AsyncClient) -> None:
    gateway.will_reply("POST", QUESTIONS, (200, {"id": "q1", "status": "running"}, {}))
    gateway.will_reply("GET", f"{QUESTIONS}/q1", (200, {"id": "q1", "status": "running"}, {}), (200, DONE, {}))
    assert (await client.session("s1").ask("?", id="q1")).text == "a red ball"


async def test_failed_answer_raises_its_reason(gateway: FakeGateway, client: AsyncClient) -> None:
    lost = {"id": "q1", "status": "failed", "error": {"code": "worker_lost", "message": "gone"}}
    gateway.will_reply("POST", QUESTIONS, (200, lost, {}))
    with pytest.raises(lib.AnswerError) as caught:
        await client.session("s1").ask("?")
    assert caught.value.code == "worker_lost"


async def test_stream_takes_up_a_broken_answer_without_repeating(gateway: FakeGateway, client: AsyncClient) -> None:
    first = {"type": "answer.delta", "id": "q1", "index": 0, "text": "a ", "token_ids": [4]}
    second = {"type": "answer.delta", "id": "q1", "index": 1, "text": "red ball", "token_ids": [5, 6]}
    done = {"type": "answer.done", "id": "q1", "text": "a red ball", "finish_reason": "stop"}
    gateway.will_reply("POST", QUESTIONS, [first], [first, second, done])
    items = [item async for item in client.session("s1").stream("?", id="q1")]
    assert [item.text for item in items if isinstance(item, Delta)] == ["a ", "red ball"]
    assert isinstance(items[-1], AnswerResult)
    assert items[-1].question == "?"
    assert {headers["idempotency-key"] for _, _, headers, _ in gateway.requests} == {"q1"}


async def test_stream_raises_the_answers_failure(gateway: FakeGateway, client: AsyncClient) -> None:
    failed = {"type": "answer.failed", "id": "q1", "error": {"code": "timeout", "message": "too slow"}}
    gateway.will_reply("POST", QUESTIONS, [failed])
    with pytest.raises(lib.AnswerError, match="too slow"):
        _ = [item async for item in client.session("s1").stream("?")]


async def test_upload_sends_the_file_and_tells_its_progress(
    gateway: FakeGateway, client: AsyncClient, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(bytes(600_000))
    receipt = {"accepted": True, "media_id": "m1", "kind": "file", "start_ms": 0, "frames": 8, "duration_ms": 8000}
    gateway.will_reply("POST", "/v1/sessions/s1/media", (202, receipt, {}))
    seen: list[tuple[int, int]] = []
    reply = await client.session("s1").upload(
        clip, wait=True, pace="realtime", progress=lambda sent, total: seen.append((sent, total))
    )
    assert (reply.media_id, reply.frames, reply.duration_ms) == ("m1", 8, 8000)
    assert seen == [(262_144, 600_000), (524_288, 600_000), (600_000, 600_000)]
    _, path, headers, body = gateway.requests[0]
    assert path == "/v1/sessions/s1/media?pace=realtime&wait=true"
    assert (len(body), headers["content-length"]) == (600_000, "600000")


async def test_upload_is_refused_by_name(gateway: FakeGateway, client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(b"noise")
    gateway.will_reply("POST", "/v1/sessions/s1/media", failure(415, "no_video"))
    with pytest.raises(lib.BadRequestError) as caught:
        await client.session("s1").upload(tmp_path / "noise.bin")
    assert caught.value.code == "no_video"
