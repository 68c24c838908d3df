"""How many sessions a worker says that it has time for."""

from __future__ import annotations

import pytest

from protocol.bus import Bus
from tests.workers.fake_engine import CARD, FakeEngine
from tests.workers.stage import running, until
from workers.engine.messages import Ready, Stats, StepStats

pytestmark = pytest.mark.conformance

IDLE = StepStats(
    steps=0,
    frames=0,
    decode_tokens=0,
    question_tokens=0,
    pages_used=0,
    pages_total=1,
    vision_seconds=0.0,
    decoder_seconds=0.0,
    queued_frames=0,
    effort=0.5,
)


async def test_more_are_admitted_where_frames_turn_out_to_take_less(bus: Bus) -> None:
    engine = FakeEngine()
    engine.ready = Ready(card=CARD, capacity_tokens=1024, frame_seconds=0.1)

    async def admits(most: int) -> bool:
        return [state.card.max_sessions for state in await bus.placement.workers()] == [most]

    async with running(bus, engine, max_sessions=32):
        assert await admits(8)
        engine._say(Stats(stats=IDLE))
        await until(lambda: admits(17))
