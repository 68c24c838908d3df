"""The simulation beside a real engine's scheduling, on a card whose time is known."""

from __future__ import annotations

from collections import deque

import pytest

from bench.host import percentile
from bench.schedule import H100, H100_HOST, Bench, Driver, Trace
from bench.simulation import Load, Simulation, Told, arrivals
from tests.workers.engine.card import Clock, Idle, imagined

pytestmark = pytest.mark.unit


def both(sessions: int, seconds: float, ahead: bool) -> tuple[Trace, Told]:
    """The same arrivals to an engine on a card that takes what H100 says, and to the simulation."""
    clocks: list[Clock] = []
    bench = Bench(sessions, 5_760, 1_100, 4, 10.0, lambda: clocks[0].now if clocks else 0.0, ahead=ahead)
    load = Load(sessions, seconds, tokens=256, keys=4_352, prompt=14)
    driver = Driver(imagined(), bench, load, make_device=Idle)
    clocks.append(Clock(driver.engine, H100.seconds, H100_HOST.seconds, lambda: 1.0, ahead))
    driver.engine.step = clocks[0].step  # type: ignore[method-assign]
    driver.device_done = clocks[0].done  # type: ignore[method-assign]
    real = driver.run(deque(arrivals(load, seed=2)))
    return real, Simulation(load, H100, bench.limits, real.lengths, 2, host=H100_HOST if ahead else None).run()


@pytest.mark.parametrize("ahead", [False, True])
def test_simulated_steps_are_those_of_an_engine_on_the_same_card(ahead: bool) -> None:
    real, told = both(60, 10.0, ahead)
    assert len(told.steps) == pytest.approx(len(real.steps), rel=0.03)
    for share in (0.5, 0.9, 0.99):
        measured, simulated = (percentile([each for _, each in steps], share) for steps in (real.steps, told.steps))
        assert simulated == pytest.approx(measured, rel=0.05), share
