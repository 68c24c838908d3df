"""The scheduler over ten thousand sessions, on step times that are first held against a real engine's.

    python -m bench.schedule [--device cpu|cuda] [--sessions 10000] [--trace 60] [--json [PATH]]

First part, `trace`: an engine whose steps are measured for calibration; then some live sessions with jittered frames
and questions on a clock that its own steps move, and the same arrivals in the simulation, whose steps take what the
calibration predicts. On a CPU with `mini`, in processor seconds of one thread, which other work on the machine changes
least; on a GPU with random weights of the Qwen2.5-VL-7B shape, each step waited for. Second part, `fleet`: sessions on
a machine so much faster that it could just carry them, at half, at nine tenths and at one and a half times its
capacity: what is planned in how much time, who waits, and who gets less than others. Third part, `card`: what the plans
make of one H100's costs, as told by this calibration or, without a GPU, counted from its measurements: answers beside
many frames, and live sessions whose rates are governed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.host import hardware, percentile, today
from bench.random_model import random_checkpoint
from bench.simulation import Arrival, Load, Simulation, Told, arrivals
from workers.core import Fence
from workers.engine.calibration import ANSWERS, Calibration
from workers.engine.costs import StepCosts, StepCounts, fitted
from workers.engine.device import Device
from workers.engine.engine import Engine, MakeDevice
from workers.engine.messages import AskQuestion, Event, OpenSession, PushFrame, QuestionDone
from workers.engine.scheduler import StepLimits
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.hub import resolve

RESULTS = Path(__file__).resolve().parent / "results"
QUESTION = "What is in the upper left corner now?"
PICTURES = 64
H100 = StepCosts(
    # Counted from results/engine-cuda.json (steps of 4, 8 and 16 pictures, 1 to 64 answers) and NOTES.md's profile.
    step=0.3e-3,
    passes=1.2e-3,
    answers=0.02e-3,
    tokens=0.0187e-3,
    pairs=0.00087e-3,
    batches=0.4e-3,
    pictures=3.05e-3,
    short=0.0128e-3,
    keys=0.0195e-3,
    spread=(0.97, 0.99, 1.0, 1.0, 1.01, 1.03),
)
H100_HOST = replace(H100.scaled(0), passes=4e-3)
CEILING = 109.1  # frames a second, measured with those costs
TARGET = 0.05
FLEET = {"half": 0.5, "nine_tenths": 0.9, "too_many": 1.5}


@dataclass(frozen=True, slots=True)
class Bench:
    """What is traced: sessions of `budget` tokens on an engine of these settings, timed by `clock`.

    Where the host is a step `ahead`, a step takes what lies between the end of the one before, or being planned if the
    device was idle, and its own end.
    """

    sessions: int
    budget: int
    step_tokens: int
    step_pictures: int
    every: float
    clock: Callable[[], float]
    ahead: bool

    @property
    def settings(self) -> EngineSettings:
        return EngineSettings(
            pool_tokens=self.sessions * self.budget + 16,
            default_budget=self.budget,
            step_tokens=self.step_tokens,
            step_pictures=self.step_pictures,
        )

    @property
    def limits(self) -> StepLimits:
        return StepLimits(self.step_tokens, self.step_pictures, self.settings.floor_tokens)


BENCHES = {
    "cpu": Bench(6, 1_376, 160, 2, 10.0, time.process_time, ahead=False),
    "cuda": Bench(60, 5_760, 1_100, 4, 10.0, time.perf_counter, ahead=True),
}


@dataclass(slots=True)
class Trace:
    """A real engine under a load: its steps, and how long its answers were."""

    steps: list[tuple[StepCounts, float]]
    lengths: list[int]


class Driver:
    """Drives an engine through arrivals on a clock that only work on them moves."""

    def __init__(self, checkpoint: Checkpoint, bench: Bench, load: Load, make_device: MakeDevice = Device) -> None:
        self._clock, self._ahead = bench.clock, bench.ahead
        self._load, self._now, self._pushed = load, 0.0, 0
        self._trace = Trace([], [])
        self._side = checkpoint.pixels.side
        coarse = np.random.default_rng(1).integers(0, 256, (PICTURES, 8, 8, 3), dtype=np.uint8)
        blocks = np.ones((1, self._side // 8, self._side // 8, 1), dtype=np.uint8)
        self._pictures = np.kron(coarse, blocks)
        self.engine = Engine(
            checkpoint,
            bench.settings,
            self._picture,
            self._hear,
            now=lambda: self._now,
            ahead=bench.ahead,
            make_device=make_device,
        )
        self.engine.warm()
        for n in range(load.sessions):
            opening = OpenSession(
                session_id=str(n), budget_tokens=bench.budget, policy="window", instructions="", complete=False
            )
            self.engine.handle(opening)

    def run(self, coming: deque[Arrival]) -> Trace:
        busy, running, begun, read = True, StepCounts(), 0.0, self._clock()
        while coming or busy:
            if not busy:
                self._now = max(self._now, coming[0].at)
            while coming and coming[0].at <= self._now:
                self._arrive(coming.popleft())
            before, planned = replace(self.engine.counters), self._now
            busy = self.engine.step()
            if not busy:
                self.device_done()
            ended = self._clock()
            self._now, read = self._now + ended - read, ended
            counts = self.engine.counters.since(before)
            if not self._ahead:
                running, begun, counts = counts, planned, StepCounts()
            if running != StepCounts():
                self._trace.steps.append((running, self._now - begun))
            begun = planned if running == StepCounts() else self._now
            running = counts
        return self._trace

    def device_done(self) -> None:
        """Waits for all that the device was given."""
        fence = Fence(self.engine.pool.store.keys.device)
        fence.mark()
        fence.wait()

    def _arrive(self, arrival: Arrival) -> None:
        self._pushed += 1
        name, t_ms = str(arrival.session), int(arrival.at * 1000)
        if arrival.kind == "question":
            question = {"text": QUESTION, "at_ms": 0, "wait_until": -1.0, "remember": False, "max_tokens": 32}
            self.engine.handle(AskQuestion(session_id=name, question_id=str(self._pushed), **question))  # type: ignore[arg-type]
            return
        frame = {"width": self._side, "height": self._side, "deadline": arrival.at + self._load.lag}
        self.engine.handle(PushFrame(session_id=name, sequence=self._pushed, t_ms=t_ms, slot=0, **frame))  # type: ignore[arg-type]

    def _hear(self, event: Event) -> None:
        if isinstance(event, QuestionDone):
            self._trace.lengths.append(max(1, event.completion_tokens))

    def _picture(self, frame: PushFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
        picture: np.ndarray[Any, np.dtype[np.uint8]] = self._pictures[frame.sequence % PICTURES]
        return picture


def calibration(checkpoint: Checkpoint, bench: Bench) -> tuple[StepCosts, StepCosts | None]:
    """What steps cost, and what planning and launching them costs a host that is ahead."""
    measured = Calibration(checkpoint, bench.settings, bench.clock, ahead=bench.ahead)
    return fitted(measured.steps()), fitted(measured.launches) if bench.ahead else None


def traced(
    checkpoint: Checkpoint, seconds: float, bench: Bench, costs: StepCosts, host: StepCosts | None
) -> dict[str, Any]:
    """Real and simulated step times under the same arrivals."""
    tokens = (checkpoint.pixels.side // checkpoint.pixels.factor) ** 2
    load = Load(
        sessions=bench.sessions,
        seconds=seconds,
        every=bench.every,
        tokens=tokens,
        keys=_trunk(bench.budget, tokens),
        prompt=_prompt(checkpoint),
    )
    real = Driver(checkpoint, bench, load).run(deque(arrivals(load, seed=2)))
    told = Simulation(load, costs, bench.limits, real.lengths, seed=2, host=host).run()
    measured, simulated = ([each for _, each in steps] for steps in (real.steps, told.steps))
    return {
        "load": asdict(load),
        "costs_ms": _ms(costs),
        "host_ms": _ms(host) if host else None,
        "measured": _steps_ms(measured),
        "simulated": _steps_ms(simulated),
        "predicted_from_the_same_counts": _steps_ms([costs.seconds(counts) for counts, _ in real.steps]),
        **_apart(simulated, measured),
    }


def _trunk(budget: int, tokens: int) -> int:
    """Keys of a full trunk: what the engine leaves aside for branches is not among them."""
    return max(budget * 3 // 4, budget - 4 * tokens - 256) - tokens // 2


def _prompt(checkpoint: Checkpoint) -> int:
    header = checkpoint.chat.header("")
    return len(checkpoint.chat.question(header.clock, QUESTION))


def _ms(costs: StepCosts) -> dict[str, float]:
    return {name: round(1e3 * value, 5) for name, value in asdict(costs).items() if name not in ("spread", "held")}


def _steps_ms(seconds: list[float]) -> dict[str, float]:
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    return {"steps": len(seconds)} | {name: round(1e3 * percentile(seconds, at), 3) for name, at in shares.items()}


def _apart(simulated: list[float], measured: list[float]) -> dict[str, float]:
    """By how much of the measured the simulated step times are off."""
    shares = {"p50_off": 0.5, "p99_off": 0.99}
    return {name: round(percentile(simulated, at) / percentile(measured, at) - 1, 4) for name, at in shares.items()}


def fleet(costs: StepCosts, sessions: int, seconds: float, use: float) -> dict[str, Any]:
    """So many sessions of one frame a second on a machine whose time they take a share `use` of.

    It is faster than the one that was measured, in everything alike. A governor caps frame rates where it has to.
    """
    load = Load(sessions=sessions, seconds=seconds, every=30.0, keys=2_500)
    answers = 32 / load.every * costs.answer(load.keys)
    fast = costs.scaled(use / (sessions * (costs.frame(load.tokens, load.keys) + answers)))
    limits = fast.limits(0.05, load.tokens, load.keys, answers=sessions // 20, most=StepLimits(1 << 24, 1 << 20, 64))
    told = Simulation(load, fast, limits, [32], seed=3, frame_seconds=fast.full(load.tokens, load.keys, limits)).run()
    return {"limits": asdict(limits), **_told(told)}


def on_card(costs: StepCosts, host: StepCosts, seconds: float, sessions: int) -> dict[str, Any]:
    """One H100 by its costs: 16 answers beside 85 % of its ceiling, and so many live sessions.

    Live frames are dropped at an age of one second, and each session is asked every 30 s for 32 tokens.
    """
    frame = {"tokens": 260, "keys": 4_368, "full": True, "prompt": 20}
    limits = costs.limits(TARGET, 256, 4_368, ANSWERS, most=StepLimits(8_192, 16, 64))
    whole = costs.full(256, 4_368, limits)
    beside = Load(32, seconds, 0.85 * CEILING / 32, every=inf, lag=inf, jitter=0.05, answering=16, **frame)  # type: ignore[arg-type]
    live = Load(sessions, seconds, every=30.0, lag=1.0, **frame)  # type: ignore[arg-type]
    told = {
        "answers_beside_frames": _told(Simulation(beside, costs, limits, [32], seed=4, host=host).run()),
        f"live_{sessions}": _told(Simulation(live, costs, limits, [32], seed=4, frame_seconds=whole, host=host).run()),
    }
    return {"costs_ms": _ms(costs), "limits": asdict(limits), "frame_ms": round(1e3 * whole, 3), **told}


def _told(told: Told) -> dict[str, Any]:
    steps, offered = max(len(told.steps), 1), max(1, sum(told.served) + sum(told.late) + sum(told.thinned))
    times = {
        "step_p99_ms": ([each for _, each in told.steps], 0.99),
        "first_token_p95_ms": (told.first_token, 0.95),
        "between_tokens_p99_ms": (told.between, 0.99),
        "frame_age_p99_ms": (told.frame_age, 0.99),
        "frame_age_most_ms": (told.frame_age, 1.0),
    }
    return {
        "simulated_s": round(told.seconds, 1),
        "steps": len(told.steps),
        "plan_ms_a_step": round(1e3 * told.planning / steps, 3),
        **{name: round(1e3 * percentile(each, at), 2) for name, (each, at) in times.items() if each},
        "frames_a_second": round(sum(told.served) / told.seconds, 1),
        "late_share": round(sum(told.late) / offered, 4),
        "thinned_share": round(sum(told.thinned) / offered, 4),
        "least_served": min(told.served),
        "most_served": max(told.served),
    }


def main() -> None:
    wanted = _parser().parse_args()
    torch.set_num_threads(1)
    on_gpu = wanted.device == "cuda"
    checkpoint = random_checkpoint("cuda", torch.bfloat16) if on_gpu else open_checkpoint(resolve("mini"))
    bench = BENCHES[wanted.device]
    costs, host = calibration(checkpoint, bench)
    trace = traced(checkpoint, wanted.trace, bench, costs, host)
    result = {"date": today(), "hardware": hardware(), "device": wanted.device, "trace": trace}
    if host is None:
        carried = {name: fleet(costs, wanted.sessions, wanted.seconds, use) for name, use in FLEET.items()}
        result |= {"sessions": wanted.sessions, "fleet": carried}
        costs, host = H100, H100_HOST
    result["card"] = on_card(costs, host, 120.0, 80)
    print(json.dumps(result, indent=1))
    if wanted.json:
        name = "schedule-cuda.json" if on_gpu else "schedule.json"
        path = RESULTS / name if wanted.json is RESULTS else wanted.json
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the fleet's time")
    parser.add_argument("--trace", type=float, default=60.0, help="seconds of the real engine's time")
    parser.add_argument("--json", type=Path, nargs="?", const=RESULTS, help="also write it (default: bench/results)")
    return parser


if __name__ == "__main__":
    main()
