"""vLLM's arm against a stand-in that speaks as its server and its sessions do: what is sent, and what is made of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from bench.camera import Album, Blocks
from bench.random_model import TINY
from bench.vllm_arm import VllmFailed, VllmPlace, eight_bits, measured
from bench.vllm_client import AGES, Asker

pytestmark = pytest.mark.e2e

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"version": "stand-in"}')
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers()
        for _ in range(body["max_tokens"]):
            self.wfile.write(b'data: {"id":"x","choices":[{"delta":{"content":"a"}}]}\\n\\n')
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\\n\\n")

class Server(ThreadingHTTPServer):
    request_queue_size = 128

port = int(sys.argv[sys.argv.index("--port") + 1])
Server(("127.0.0.1", port), Handler).serve_forever()
"""
PACKAGE = {
    "__init__.py": "class SamplingParams:\n    def __init__(self, **given): pass\n",
    "entrypoints/cli/main.py": SERVER,
    "engine/arg_utils.py": "class AsyncEngineArgs:\n    def __init__(self, **given): pass\n",
    "engine/protocol.py": "class StreamingInput:\n    def __init__(self, **given): pass\n",
    "v1/engine/async_llm.py": """
class AsyncLLM:
    @classmethod
    def from_engine_args(cls, arguments): return cls()
    async def generate(self, chunks, sampling, name):
        async for _ in chunks: yield name
    def shutdown(self): pass
""",
}


@pytest.fixture
def stand_in(tmp_path: Path) -> VllmPlace:
    for name, text in PACKAGE.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return VllmPlace(str(tmp_path), TINY, configurations=(0, 1), requests=2, makers=0)


def test_the_best_configuration_counts_and_says_how_it_was_started(stand_in: VllmPlace) -> None:
    better = {"ingest_fps": 1e9, "version": "before", "options": ["--api-server-count", "1"]}
    before = {**better, "configurations": [{"command": "other", "ingest_fps": 1e9}]}
    first, found = measured(stand_in, 56, {})
    assert len(first["configurations"]) == 1
    assert found["version"] == "stand-in"
    assert found["ingest_fps"] == max(each["ingest_fps"] for each in found["configurations"])
    assert [each["command"].count("--api-server-count") for each in found["configurations"]] == [1, 1]
    assert [look["pictures"] for look in found["session"]] == list(AGES)
    assert set(found["decode"]) == {"1", "32"}
    (again,) = measured(replace(stand_in, configurations=(2,)), 56, before)
    assert (again["version"], len(again["configurations"])) == ("before", 2)
    (eight,) = eight_bits(stand_in, 56, found)
    assert eight["fp8"]["command"].endswith("--quantization fp8")


def test_a_server_that_does_not_start_says_why(stand_in: VllmPlace) -> None:
    Path(stand_in.path, "vllm", "entrypoints", "cli", "main.py").write_text("raise SystemExit('no such card')")
    with pytest.raises(VllmFailed, match="no such card"):
        next(measured(replace(stand_in, configurations=(0,)), 56, {}))


async def test_no_picture_is_sent_twice_unless_the_session_is() -> None:
    sent: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        parts = body["messages"][0]["content"]
        sent.append([part["image_url"]["url"] for part in parts if part["type"] == "image_url"])
        token = 'data: {"id":"x","choices":[{"delta":{}}]}\n\n'
        return httpx.Response(200, text=token * body["max_tokens"] + "data: [DONE]\n\n")

    async with httpx.AsyncClient(base_url="http://peer", transport=httpx.MockTransport(answer)) as http:
        asker = Asker(http, Album(Blocks(28), 1, 0))
        await asker.ingest(3)
        ingested = [picture for request in sent for picture in request]
        assert len(set(ingested)) == len(ingested) == 8 * 2 + 3 * 8
        sent.clear()
        looks = await asker.session()
    assert len(looks) == len(AGES)
    assert all(later[: len(before)] == before for before, later in pairwise(sent))
    assert [len(request) for request in sent[:4]] == [10, 11, 12, 13]


def test_sessions_are_told_by_age_and_by_crowd(stand_in: VllmPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(stand_in.path)
    from bench import vllm_sessions

    monkeypatch.setattr(vllm_sessions, "OLDEST", 40)
    monkeypatch.setattr(vllm_sessions, "AGES", (0, 30))
    monkeypatch.setattr(vllm_sessions, "CROWDS", (2,))
    monkeypatch.setattr(vllm_sessions, "LIVE_S", 6)
    found = asyncio.run(vllm_sessions.measured(vllm_sessions.Sessions("model", Blocks(28)), period=0.01))
    assert [each["pictures"] for each in found["by_age"]] == [0, 30]
    assert [each["sessions"] for each in found["crowds"]] == [2]
