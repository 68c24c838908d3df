"""A worker whose model takes pictures of the footage's own size, ten a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from protocol.bus import Bus
from tests.server.fake_worker import FakeWorker, make_card
from tests.server.formats.footage import HEIGHT, RATE, WIDTH


@pytest.fixture
async def worker(bus: Bus) -> AsyncIterator[FakeWorker]:
    card = make_card()
    model = replace(card.model, frame_width=WIDTH, frame_height=HEIGHT, max_fps=float(RATE))
    worker = FakeWorker(bus, replace(card, model=model))
    running = asyncio.create_task(worker.run())
    await worker.advertised.wait()
    yield worker
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
