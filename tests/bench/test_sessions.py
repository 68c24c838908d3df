"""Live sessions on a real engine process with a tiny model: what is counted, and when a load counts as carried."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from bench.camera import Blocks
from bench.live_arm import Room, Sample, largest, memory, searched, steady
from bench.load import LiveLoad
from bench.random_model import TINY
from bench.sessions import Live, Seen
from bench.shape import write_shape
from workers.engine.client import EngineClient
from workers.engine.messages import Outcome, PushFrame
from workers.engine.session import taken as told
from workers.pictures import PictureDecoder

pytestmark = pytest.mark.e2e

SIDE, BUDGET = 112, 320
LOAD = LiveLoad(
    sessions=2,
    most=3,
    step=1,
    trial=2.0,
    seconds=2.0,
    settle=1.0,
    every=1.0,
    answer_tokens=4,
    age_s=30.0,
    first_token_s=30.0,
    between_s=30.0,
    slo_itl_ms=None,
    makers=1,
)
GOOD = Seen(seconds=1.0, ages=[0.1, 0.9], first=[0.1], between=[0.01])


@pytest.fixture
def room(tmp_path: Path) -> Room:
    arguments = ["--model", str(write_shape(TINY, tmp_path, SIDE)), "--random-weights", "--threads", "1"]
    return Room([*arguments, "--pool-tokens", str(3 * BUDGET), "--check-books"], BUDGET, fill=2)


async def test_the_largest_number_is_looked_for_up_to_the_room_there_is(room: Room) -> None:
    found = await largest(room, Blocks(SIDE), LOAD)
    assert found["sessions"] == found["capacity"] == 3
    assert [trial["sessions"] for trial in found["trials"]] == [2, 3, 3]
    assert found["kept"]["frames"] >= 3
    assert found["kept"]["questions"] >= 3
    assert found["kept"]["broken"] == []
    assert found["kept"]["memory"]["host_mib"] > 0


async def test_what_is_not_carried_is_said_so(room: Room) -> None:
    found = await steady(room, Blocks(SIDE), replace(LOAD, age_s=0.0), 2)
    assert found["broken"] == ["a picture was too old"]


@pytest.mark.parametrize(
    ("trial", "whole", "most", "step", "found", "tried"),
    [
        (85, 85, 200, 10, 80, [60, 70, 80, 90, 80]),
        (85, 72, 200, 10, 70, [60, 70, 80, 90, 80, 75, 70]),
        (500, 500, 75, 10, 75, [60, 70, 75, 75]),
        (50, 50, 200, 10, 0, [60]),
        (500, 500, 200, 0, 60, [60]),
        (50, 50, 200, 0, 0, [60]),
    ],
)
async def test_the_search_goes_up_in_trials_and_down_from_what_does_not_last(
    trial: int, whole: int, most: int, step: int, found: int, tried: list[int]
) -> None:
    asked: list[int] = []

    async def carries(count: int, seconds: float) -> bool:
        asked.append(count)
        return count <= (trial if seconds == 40.0 else whole)

    assert await searched(LiveLoad(sessions=60, step=step), most, carries) == found
    assert asked == tried


def test_a_load_is_carried_while_every_promise_holds() -> None:
    load = LiveLoad()
    assert GOOD.broken(load) == []
    worse = [
        replace(GOOD, ages=[1.1]),
        replace(GOOD, first=[0.1] * 9 + [0.2]),
        replace(GOOD, between=[0.06]),
        replace(GOOD, lost=Counter(late=1)),
        replace(GOOD, failed=1),
    ]
    assert [len(each.broken(load)) for each in worse] == [1] * 5


async def test_a_picture_that_is_refused_before_its_turn_takes_none_with_it() -> None:
    engine = create_autospec(EngineClient, instance=True)
    engine.ready.card.frame_width = SIDE
    live = Live(engine, create_autospec(PictureDecoder, instance=True), 0)
    live.due = {0: 1.0, 1000: 2.0, 2000: 3.0, 3000: 4.0}

    def taken(t_ms: int, outcome: Outcome) -> float:
        command = PushFrame(session_id=live.name, sequence=0, t_ms=t_ms, slot=0, width=1, height=1, deadline=0.0)
        return live.taken(told(command, outcome))

    assert taken(3000, "dropped_rate") == 4.0
    assert taken(1000, "prefilled") == 2.0
    assert list(live.due) == [2000], "the one before it was let go by its feed"


def test_memory_is_judged_by_the_slope_once_it_has_settled() -> None:
    samples = [Sample(at=60.0 * n, host=(100 + n) << 20, device=7 << 20) for n in range(8)]
    told = memory([Sample(0.0, 1 << 20, 1 << 20), *samples])
    assert told["host_mib_a_minute"] == 1.0
    assert told["device_mib_a_minute"] == 0.0
    assert told["host_mib"] == 107
