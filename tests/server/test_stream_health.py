"""What clients are told about the health of their streams, through real decoders."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import connect

from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import H264, JPEG, PCM16, chunk, h264_units, hear, say

pytestmark = pytest.mark.e2e


def noisy(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(60, 200, (120, 160, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


async def test_a_frozen_camera_is_told_and_shown_and_its_end_too(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(ingest="complete")
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=gateway.auth()) as socket:
        for second in range(20):
            await socket.send(chunk(JPEG, second, second, noisy(min(second, 5)), track=3))
        begun = await hear(socket, lambda e: e.get("code") == "frozen")
        assert begun["data"] == {"track": 3, "state": "begun", "since_ms": 6000, "at_ms": 16_000}
        assert begun["message"] == "the picture does not change"
        await hear(socket, lambda e: e["type"] == "session.health" and e["conditions"] == {"frozen": [3]})
        await socket.send(chunk(JPEG, 20, 20, noisy(77), track=3))
        over = await hear(socket, lambda e: e.get("code") == "frozen")
        assert (over["data"]["state"], over["data"]["at_ms"]) == ("over", 20_000)
        await hear(socket, lambda e: e["type"] == "session.health" and e["conditions"] == {})
    metrics = (await gateway.http.get("/metrics")).text
    assert 'longlook_stream_conditions_total{condition="frozen"} 1.0' in metrics


async def test_black_video_and_silent_sound(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(ingest="complete")
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=gateway.auth()) as socket:
        for second, unit in enumerate(h264_units(["black"] * 8)):
            await socket.send(chunk(H264, second, second, unit))
        assert (await hear(socket, lambda e: e.get("code") == "black"))["data"]["at_ms"] == 5000
        for second in range(12):
            await socket.send(chunk(PCM16, second, second, bytes(32_000), track=1))
        await say(socket, type="media.end")
        silent = await hear(socket, lambda e: e.get("code") == "silent")
        assert silent["data"] == {"track": 1, "state": "begun", "since_ms": 0, "at_ms": 10_000}
