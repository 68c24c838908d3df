"""``ask`` and ``watch`` as a user runs them, against a gateway that answers as told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from longlook_client.cli import app
from tests.clients.fake_gateway import HEALTH, KEY, FakeGateway, failure

pytestmark = pytest.mark.unit

MEDIA = "/v1/sessions/s1/media"
RECEIPT = {"accepted": True, "media_id": "m1", "kind": "file", "start_ms": 0, "frames": 8, "duration_ms": 8000}
ANSWER = [
    {"type": "answer.delta", "index": 0, "text": "a red ", "token_ids": [1]},
    {"type": "answer.delta", "index": 1, "text": "ball", "token_ids": [2]},
    {"type": "answer.done", "text": "a red ball", "finish_reason": "stop", "as_of_ms": 900},
]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(1000))
    return path


async def run(gateway: FakeGateway, *arguments: str, typed: str = "", key: str = KEY) -> Result:
    options = [*arguments, "--url", gateway.url, "--key", key]
    return await asyncio.to_thread(CliRunner().invoke, app, options, input=typed)


async def test_ask_prints_the_answer_and_closes_the_session(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, (202, RECEIPT, {}))
    gateway.answer = ANSWER
    result = await run(gateway, "ask", str(clip), "--question", "what?", "-q", "and now?")
    assert result.exit_code == 0, result.output
    assert result.stdout == "? what?\na red ball\n? and now?\na red ball\n"
    methods = [(method, path) for method, path, _, _ in gateway.requests]
    assert (MEDIA + "?pace=realtime&wait=true") in [path for _, path in methods]
    assert methods[-1] == ("DELETE", "/v1/sessions/s1")


async def test_ask_fast_is_a_complete_session_and_json_one_object(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, (202, RECEIPT, {}))
    gateway.answer = ANSWER
    result = await run(gateway, "ask", str(clip), "-q", "what?", "--fast", "--json", "--fps", "2")
    report = json.loads(result.stdout)
    assert report["media"]["duration_ms"] == 8000
    assert [(answer["question"], answer["text"]) for answer in report["answers"]] == [("what?", "a red ball")]
    assert json.loads(gateway.requests[0][3]) == {"ingest": "complete", "fps": 2.0}
    assert gateway.requests[1][1].endswith("pace=fast&wait=true")
    assert "at_ms" not in gateway.asked[0]


async def test_ask_fast_at_asks_before_the_stream_gets_there(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, (202, RECEIPT, {}))
    gateway.answer = ANSWER
    result = await run(gateway, "ask", str(clip), "-q", "what?", "-q", "and?", "--fast", "--at", "2.5")
    assert result.stdout == "? what?\na red ball\n? and?\na red ball\n"
    assert [(question["question"], question["at_ms"]) for question in gateway.asked] == [
        ("what?", 2500),
        ("and?", 2500),
    ]


async def test_ask_at_waits_for_that_second_of_the_stream(gateway: FakeGateway, clip: Path) -> None:
    early = {**HEALTH, "session_time_ms": 1900}
    late = {**HEALTH, "session_time_ms": 2000}
    states = [(200, gateway.session() | {"health": health}, dict[str, str]()) for health in (early, early, late)]
    gateway.will_reply("GET", "/v1/sessions/s1", *states)
    gateway.answer = ANSWER
    gateway.stalled.add(MEDIA)
    result = await run(gateway, "ask", str(clip), "-q", "what?", "--at", "2")
    assert (result.exit_code, result.stdout) == (0, "? what?\na red ball\n")
    paths = [path for method, path, _, _ in gateway.requests if method == "GET"]
    assert paths == ["/v1/sessions/s1"] * 3


async def test_ask_says_how_to_start_a_server(clip: Path) -> None:
    nobody = FakeGateway()
    nobody.url = "http://127.0.0.1:9"
    result = await run(nobody, "ask", str(clip), "-q", "what?")
    assert result.exit_code == 1
    assert "longlook serve" in result.stderr


async def test_ask_says_what_a_wrong_key_needs(gateway: FakeGateway, clip: Path) -> None:
    result = await run(gateway, "ask", str(clip), "-q", "what?", key="wrong")
    assert result.exit_code == 1
    assert "--key" in result.stderr


async def test_ask_ends_with_the_reason_for_a_refused_file(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, failure(415, "no_video"))
    result = await run(gateway, "ask", str(clip), "-q", "what?")
    assert result.exit_code == 1
    assert "no_video" in result.stderr
    assert gateway.requests[-1][0] == "DELETE"


async def test_ask_ends_with_one_when_an_answer_failed(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, (202, RECEIPT, {}))
    gateway.answer = [{"type": "answer.failed", "error": {"code": "log_lost", "message": "lost"}}]
    result = await run(gateway, "ask", str(clip), "-q", "what?")
    assert result.exit_code == 1
    assert "lost" in result.stdout


async def test_watch_takes_questions_from_a_pipe(gateway: FakeGateway, clip: Path) -> None:
    gateway.will_reply("POST", MEDIA, (202, RECEIPT, {}))
    gateway.answer = ANSWER
    result = await run(gateway, "watch", str(clip), typed="what?\n\n")
    assert result.exit_code == 0, result.output
    assert "? what?" in result.stdout
    assert "a red ball   as of 0:00.9" in result.stdout
    assert gateway.requests[-1][0] == "DELETE"
