"""The scheduler over ten thousand sessions, on step times that are first held against a real engine's.

    python -m bench.schedule [--sessions 10000] [--trace 60] [--json]

First part, `trace`: the engine with `mini` on the CPU, its steps measured for calibration; then some live sessions with
jittered frames and questions on a clock that its own steps move, and the same arrivals in the simulation, whose steps
take what the calibration predicts. Times are processor seconds of one thread, which other work on the machine changes
least. Second part, `fleet`: sessions on a machine so much faster that it could just carry them, at half, at nine tenths
and at one and a half times its capacity: what is planned in how much time, who waits, and who gets less than others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.host import hardware, percentile, today
from bench.simulation import Arrival, Load, Simulation, Told, arrivals
from workers.engine.calibration import Calibration
from workers.engine.costs import StepCosts, StepCounts, fitted
from workers.engine.engine import Engine
from workers.engine.messages import AskQuestion, Event, OpenSession, PushFrame, QuestionDone
from workers.engine.scheduler import StepLimits
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.hub import resolve

RESULTS = Path(__file__).resolve().parent / "results" / "schedule.json"
QUESTION = "What is in the upper left corner now?"
BUDGET = 1_376
FLEET = {"half": 0.5, "nine_tenths": 0.9, "too_many": 1.5}


@dataclass(slots=True)
class Trace:
    """A real engine under a load: its steps, and how long its answers were."""

    steps: list[tuple[StepCounts, float]]
    lengths: list[int]


class Recorder:
    """Drives an engine through arrivals on a clock that only its own work moves."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings, load: Load) -> None:
        self._chance = np.random.default_rng(1)
        self._load, self._now, self._pushed = load, 0.0, 0
        self._trace = Trace([], [])
        self._side = checkpoint.pixels.side
        self._engine = Engine(checkpoint, settings, self._picture, self._hear, now=lambda: self._now)
        for n in range(load.sessions):
            opening = OpenSession(
                session_id=str(n), budget_tokens=BUDGET, policy="window", instructions="", complete=False
            )
            self._engine.handle(opening)

    def run(self, coming: deque[Arrival]) -> Trace:
        busy = True
        while coming or busy:
            if not busy:
                self._now = max(self._now, coming[0].at)
            while coming and coming[0].at <= self._now:
                self._arrive(coming.popleft())
            before, began = replace(self._engine.counters), time.process_time()
            busy = self._engine.step()
            if busy:
                seconds = time.process_time() - began
                self._now += seconds
                counts = self._engine.counters.since(before)
                if counts != StepCounts():
                    self._trace.steps.append((counts, seconds))
        return self._trace

    def _arrive(self, arrival: Arrival) -> None:
        self._pushed += 1
        name, t_ms = str(arrival.session), int(arrival.at * 1000)
        if arrival.kind == "question":
            question = {"text": QUESTION, "at_ms": 0, "wait_until": -1.0, "remember": False, "max_tokens": 32}
            self._engine.handle(AskQuestion(session_id=name, question_id=str(self._pushed), **question))  # type: ignore[arg-type]
            return
        frame = {"width": self._side, "height": self._side, "deadline": arrival.at + self._load.lag}
        self._engine.handle(PushFrame(session_id=name, sequence=self._pushed, t_ms=t_ms, slot=0, **frame))  # type: ignore[arg-type]

    def _hear(self, event: Event) -> None:
        if isinstance(event, QuestionDone):
            self._trace.lengths.append(max(1, event.completion_tokens))

    def _picture(self, frame: PushFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
        coarse = self._chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return np.kron(coarse, np.ones((frame.height // 8, frame.width // 8, 1), dtype=np.uint8))


def traced(checkpoint: Checkpoint, seconds: float) -> tuple[dict[str, Any], StepCosts]:
    """Real and simulated step times under the same arrivals."""
    settings = EngineSettings(
        pool_tokens=6 * BUDGET, default_budget=BUDGET, step_tokens=160, step_pictures=2, frame_seconds=0.0
    )
    costs = fitted(Calibration(checkpoint, settings, time.process_time).steps())
    limits = StepLimits(settings.step_tokens, settings.step_pictures, settings.floor_tokens)
    trunk = BUDGET * 3 // 4
    load = Load(sessions=6, seconds=seconds, keys=trunk, prompt=_prompt(checkpoint))
    real = Recorder(checkpoint, settings, load).run(deque(arrivals(load, seed=2)))
    told = Simulation(load, costs, limits, real.lengths, seed=2).run()
    predicted = [costs.seconds(counts) for counts, _ in real.steps]
    return {
        "load": asdict(load),
        "costs_ms": {name: round(1e3 * value, 4) for name, value in asdict(costs).items() if name != "spread"},
        "measured": _steps_ms([each for _, each in real.steps]),
        "simulated": _steps_ms([each for _, each in told.steps]),
        "predicted_from_the_same_counts": _steps_ms(predicted),
        **_apart([each for _, each in told.steps], [each for _, each in real.steps]),
    }, costs


def _prompt(checkpoint: Checkpoint) -> int:
    header = checkpoint.chat.header("")
    return len(checkpoint.chat.question(header.clock, QUESTION))


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
    shared = fast.seconds(StepCounts(passes=1, batches=1)) / limits.pictures
    told = Simulation(load, fast, limits, [32], seed=3, frame_seconds=fast.frame(load.tokens, load.keys) + shared).run()
    return {"limits": asdict(limits), **_told(told, load)}


def _told(told: Told, load: Load) -> dict[str, Any]:
    steps = max(len(told.steps), 1)
    return {
        "simulated_s": round(told.seconds, 1),
        "steps": len(told.steps),
        "plan_ms_a_step": round(1e3 * told.planning / steps, 3),
        "step_p99_ms": round(1e3 * percentile([each for _, each in told.steps], 0.99), 2),
        "first_token_p95_ms": round(1e3 * percentile(told.first_token, 0.95), 1),
        "between_tokens_p99_ms": round(1e3 * percentile(told.between, 0.99), 1),
        "frame_age_p99_ms": round(1e3 * percentile(told.frame_age, 0.99), 1),
        "frames_a_second": round(sum(told.served) / told.seconds, 1),
        "late_share": round(sum(told.late) / max(1, sum(told.served) + sum(told.late)), 4),
        "thinned_share": round(sum(told.thinned) / max(1, sum(told.served) + sum(told.late) + sum(told.thinned)), 4),
        "least_served": min(told.served),
        "most_served": max(told.served),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the fleet's time")
    parser.add_argument("--trace", type=float, default=60.0, help="seconds of the real engine's time")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", type=Path, nargs="?", const=RESULTS, help=f"also write it (default: {RESULTS})")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    trace, costs = traced(open_checkpoint(resolve(wanted.model)), wanted.trace)
    carried = {name: fleet(costs, wanted.sessions, wanted.seconds, use) for name, use in FLEET.items()}
    result = {"date": today(), "hardware": hardware(), "trace": trace, "sessions": wanted.sessions, "fleet": carried}
    print(json.dumps(result, indent=1))
    if wanted.json:
        wanted.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
