"""A short attack on a whole server; and an attack in which something is broken, to see that it is noticed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from bench.hostile import Plan, attack, broken
from bench.watching import Processes
from launcher.serving import Serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SIDE = 1000  # pixels a side of the bombs' pictures: their making takes longer than their sending
KILL_AFTER_S = 1.0


async def test_a_short_attack_breaks_nothing() -> None:
    result = await attack(Plan(seed=11, inputs=520, side=SIDE))
    summary = result["summary"]
    assert summary["inputs"] == 520
    told = (summary, result["worst"], result["gone"], result.get("log"))
    assert summary["crashes_outside"] == summary["unanswered"] == 0, told
    assert summary["decoder_peak_mib"] < 300, told
    assert summary["others"]["lost"] == 0, told


async def test_a_gateway_that_dies_is_noticed() -> None:
    async def kill(server: Serving, processes: Processes) -> None:
        await asyncio.sleep(KILL_AFTER_S)
        (gateway,) = (pid for line, pid in processes.named.items() if line.endswith("launcher.cli gateway"))
        os.kill(gateway, signal.SIGKILL)

    result = await attack(Plan(seed=12, inputs=260, side=SIDE), meanwhile=kill)
    assert result["summary"]["crashes_outside"] >= 1
    assert "crashes_outside" in result["summary"]["broken"]


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("crashes_outside", 1),
        ("unanswered", 1),
        ("slowest_answer_s", 1.2),
        ("decoder_peak_mib", 301.0),
        ("others", {"lost": 1, "dropped": 0, "age_max_ms": 20.0}),
        ("others", {"lost": 0, "dropped": 2, "age_max_ms": 20.0}),
        ("others", {"lost": 0, "dropped": 0, "age_max_ms": 1500.0}),
        ("others", {"lost": 0, "dropped": 0, "age_max_ms": float("nan")}),
    ],
)
def test_each_promise_can_be_broken(name: str, figure: object) -> None:
    kept: dict[str, Any] = {
        "crashes_outside": 0,
        "unanswered": 0,
        "slowest_answer_s": 0.9,
        "decoder_peak_mib": 200.0,
        "others": {"lost": 0, "dropped": 0, "age_max_ms": 20.0},
    }
    assert broken(kept) == []
    assert broken({**kept, name: figure}) == [name]
