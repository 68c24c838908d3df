"""A worker whose model takes pictures of the footage's own size, ten a second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from msgspec.structs import replace
from PIL import Image

from protocol.bus import Bus
from tests.server.fake_worker import FakeWorker, make_card
from tests.server.formats.footage import HEIGHT, RATE, WIDTH


@pytest.fixture(autouse=True)
def unlimited() -> Iterator[None]:
    """Decoding in this process sets limits for its whole life: processor time, and the size of pictures."""
    pixels = Image.MAX_IMAGE_PIXELS
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    Image.MAX_IMAGE_PIXELS = pixels


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
