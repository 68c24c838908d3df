"""What a gateway process writes down: ids and codes, never content or keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from protocol.bus import Bus
from tests.server.conftest import KEY
from tests.server.fake_worker import FakeWorker
from tests.server.processes import GatewayProcess, gateway_process
from tests.server.wire import JPEG, answer, chunk, hear, picture

pytestmark = pytest.mark.e2e

AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def logged(valkey_url: str, bus: Bus, tmp_path: Path) -> Iterator[GatewayProcess]:
    with (
        (tmp_path / "log").open("wb") as log,
        gateway_process(valkey_url, log=log, LONGLOOK_LOG_LEVEL="debug") as gateway,
    ):
        yield gateway


async def test_logs_hold_ids_and_no_secrets(logged: GatewayProcess, worker: FakeWorker, tmp_path: Path) -> None:
    secrets = [KEY, "planted-question", "planted-instructions", "planted-wrong-key"]
    secrets += ["planted-key", "planted-value"]
    async with httpx.AsyncClient(base_url=logged.url, headers=AUTH) as http:
        session = (
            await http.post(
                "/v1/sessions",
                json={"instructions": "planted-instructions", "metadata": {"planted-key": "planted-value"}},
            )
        ).json()
        secrets.append(session["connect_token"])
        await http.get("/v1/models", headers={"authorization": "Bearer planted-wrong-key"})
        await http.post(f"/v1/sessions/{session['id']}/questions", json={"question": "planted-question"})
        address = f"{logged.live_url}?session={session['id']}&token={session['connect_token']}"
        async with connect(address) as socket:
            secrets.append((await hear(socket, "session.ready"))["resume_token"])
            await socket.send(chunk(JPEG, 0, 0, picture("red")))
            await answer(socket, "planted-question")
        with pytest.raises(InvalidStatus):
            await connect(address)
    logged.process.terminate()
    logged.process.wait(10)
    text = (tmp_path / "log").read_text()
    assert [secret for secret in secrets if secret in text] == []
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("session_id") == session["id"] for line in lines)
    assert any(line.get("request_id", "").startswith("r_") for line in lines)
    assert any(line.get("code") == "token_used" for line in lines)
