"""What one tenant may do, while another does as it likes."""

from __future__ import annotations

import time

import pytest
from websockets.asyncio.client import connect

from protocol.bus import Bus
from server.settings import Limits
from tests.server.conftest import OTHER_KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import JPEG, chunk, hear, picture, say

pytestmark = pytest.mark.e2e

TIGHT = Limits(sessions=2, questions_per_s=0.1, bytes_per_s=500.0)


@pytest.mark.parametrize("limits", [TIGHT])
async def test_a_tenant_over_its_quota_is_told_when_to_come_back_and_no_other_notices(
    gateway: Served, worker: FakeWorker, bus: Bus
) -> None:
    """Case 33: sessions, questions, bytes."""
    mine, other = await gateway.open(), await gateway.open()
    refused = [await gateway.http.post("/v1/sessions", json={})]
    path = f"/v1/sessions/{mine['id']}"
    asked = [await gateway.http.post(f"{path}/questions", json={"question": "what colour?"}) for _ in range(4)]
    refused.append(asked[-1])
    body, kind = picture("red", size=(600, 400)), {"content-type": "image/jpeg"}
    sent = [await gateway.http.post(f"{path}/media", content=body, headers=kind) for _ in range(3)]
    refused.append(sent[-1])
    for reply in refused:
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 1
    theirs = await gateway.http.post("/v1/sessions", json={}, headers=gateway.auth(OTHER_KEY))
    assert theirs.status_code == 201
    path, auth = f"/v1/sessions/{theirs.json()['id']}", gateway.auth(OTHER_KEY)
    assert (await gateway.http.post(f"{path}/media", content=body, headers={**kind, **auth})).status_code == 202
    answer = await gateway.http.post(f"{path}/questions", json={"question": "what colour?"}, headers=auth)
    assert (answer.status_code, answer.json()["text"]) == (200, "red")
    assert other["id"] != mine["id"]


@pytest.mark.parametrize("limits", [Limits(bytes_per_s=20_000.0)])
async def test_a_socket_over_its_quota_is_read_more_slowly(gateway: Served, worker: FakeWorker) -> None:
    """Nothing is lost: the sender is held back."""
    session = await gateway.open(ingest="complete")
    body = picture("red", size=(600, 400))
    count = round(60_000 / len(body)) + 1
    begun = time.monotonic()
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=gateway.auth()) as socket:
        for number in range(count):
            await socket.send(chunk(JPEG, number, float(number), body))
        await say(socket, type="media.end")
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == count - 1, 30)
    assert time.monotonic() - begun > (count * len(body) - 40_000 - len(body)) / 20_000
