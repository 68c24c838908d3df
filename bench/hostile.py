"""Hostile media against a whole running server: is everything answered, in time, and does nobody else notice?

    python -m bench.hostile --seed 1 --inputs 100000 --json

Inputs are seeded damage to real media of every accepted format, and bombs: small media that are dear to decode. They go
to `longlook serve` with the bundled model, several sessions at once, over sockets and by REST. Beside them a session is
sent good pictures at its own pace. Exit status 1 says that a promise was broken; which, `broken` tells.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.attackers import Answers, Queue, RestAttacker, SocketAttacker
from bench.bombs import SIDE, bombs
from bench.host import CpuByProgram, hardware, percentile, today
from bench.inputs import CHUNK, Input, Inputs
from bench.lanes import Onlooker, private_bus
from bench.samples import samples
from bench.watching import Bystander, Processes, counter, tracebacks
from launcher.serving import Serving, serving, tail
from protocol.bus import Bus

ANSWER_S = 1.0
DECODER_MIB = 300.0
LATE_MS = 1000.0
SOCKETS = 2  # sessions attacked over sockets, each with one track for every format
POSTERS = 2  # sessions to which bodies are posted
SERVER = {
    "LONGLOOK_MAX_SESSIONS": "32",
    "LONGLOOK_THREADS": "1",  # damaged pictures that can be decoded keep the model busy: it leaves decoders a core
}
QUEUED = 512
HEADERS = "header"

Meanwhile = Callable[[Serving, Processes], Awaitable[None]]


@dataclass(frozen=True)
class Plan:
    """What is sent: ``inputs`` of ``seed`` from ``first`` on; the pictures of bombs have ``side`` squared pixels."""

    seed: int
    inputs: int
    first: int = 0
    side: int = SIDE


async def attack(
    plan: Plan, *, environment: dict[str, str] | None = None, meanwhile: Meanwhile | None = None
) -> dict[str, Any]:
    """Everything that one attack showed, ready for JSON.

    Args:
        environment: settings of the server.
        meanwhile: goes on beside the attack, with the server and its processes at hand.
    """
    inputs = Inputs(plan.seed, samples(), bombs(plan.side))
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as folder:
        log = Path(folder) / "serve.log"
        async with private_bus() as url:
            surroundings = {**SERVER, "LONGLOOK_REDIS_URL": url, **(environment or {})}
            async with serving(log, environment=surroundings) as server:
                result = await _attack(plan, inputs, server, url, meanwhile)
            result["summary"]["crashes_outside"] += tracebacks(log)
            if tracebacks(log):
                result["log"] = tail(log)
    result["summary"]["broken"] = broken(result["summary"])
    return result


async def _attack(plan: Plan, inputs: Inputs, server: Serving, url: str, meanwhile: Meanwhile | None) -> dict[str, Any]:
    answers, processes, bus = Answers(), Processes(server.pid), await Bus.connect(url)
    onlooker, bystander, over = Onlooker(bus), Bystander(samples()[0].pieces[0]), asyncio.Event()
    began, spent = time.monotonic(), CpuByProgram()
    try:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(onlooker.run()), tasks.create_task(processes.watch())]
            if meanwhile is not None:
                beside.append(tasks.create_task(_run(meanwhile(server, processes))))
            steady = tasks.create_task(bystander.run(server, onlooker, over))
            await _send(plan, inputs, server, answers)
            seconds, cores = time.monotonic() - began, spent.sample()
            over.set()
            await steady
            for task in beside:
                task.cancel()
    finally:
        await bus.aclose()
    lost = await counter(server, "longlook_decoders_lost_total")
    result = _report(plan, answers, processes, bystander.figures(onlooker), seconds, int(lost))
    busy = {name: round(used / seconds, 2) for name, used in sorted(cores.items())}
    return {**result, "cores_used": busy, "others_dropped": dict(bystander.dropped)}


async def _run(work: Awaitable[None]) -> None:
    await work


async def _send(plan: Plan, inputs: Inputs, server: Serving, answers: Answers) -> None:
    """Every input to a lane of its format; the lanes are shared by the sessions of their kind."""
    chunks: dict[str, Queue] = {form: asyncio.Queue(QUEUED) for form in [*inputs.forms, HEADERS] if form != "file"}
    posted: Queue = asyncio.Queue(QUEUED)
    socket_lanes = [lane for form, lane in chunks.items() if form != HEADERS]
    async with asyncio.TaskGroup() as tasks:
        for _ in range(SOCKETS):
            tasks.create_task(SocketAttacker(server, answers).run(socket_lanes))
        tasks.create_task(SocketAttacker(server, answers).run([chunks[HEADERS]]))
        for _ in range(POSTERS):
            tasks.create_task(RestAttacker(server, answers).run(posted))
        for number in range(plan.first, plan.first + plan.inputs):
            item = inputs.make(number)
            await _lane(item, chunks, posted).put(item)
        for lane, readers in [*((lane, SOCKETS) for lane in socket_lanes), (chunks[HEADERS], 1), (posted, POSTERS)]:
            for _ in range(readers):
                await lane.put(None)


def _lane(item: Input, chunks: dict[str, Queue], posted: Queue) -> Queue:
    if item.way != CHUNK:
        return posted
    return chunks[HEADERS if item.header else item.form]


def _report(
    plan: Plan, answers: Answers, processes: Processes, others: dict[str, float], seconds: float, decoders_lost: int
) -> dict[str, Any]:
    gone, counted = processes.gone(), answers.of_all_forms()
    return {
        "command": "python -m bench.hostile " + " ".join(sys.argv[1:]),
        "date": today(),
        "hardware": hardware(),
        "seed": plan.seed,
        "summary": {
            "inputs": len(answers.seconds),
            "seconds": round(seconds, 1),
            "crashes_outside": len(gone) + counted["internal"],
            "unanswered": counted["unanswered"],
            "slowest_answer_s": round(max(answers.seconds, default=0.0), 3),
            "p99_answer_s": round(percentile(answers.seconds, 0.99), 3),
            "answers_after_1_s": sum(taken > ANSWER_S for taken in answers.seconds),
            "decoder_peak_mib": round(processes.peak_bytes / 2**20, 1),
            "decoders_lost": decoders_lost,
            "others": {name: round(figure, 1) for name, figure in others.items()},
        },
        "gone": gone,
        "answers": {form: dict(counted.most_common()) for form, counted in sorted(answers.by_form.items())},
        "worst": answers.worst,
    }


def broken(summary: dict[str, Any]) -> list[str]:
    """Names of the figures that are not what was promised."""
    others = summary["others"]
    wrong = {
        "crashes_outside": summary["crashes_outside"] > 0,
        "unanswered": summary["unanswered"] > 0,
        "slowest_answer_s": summary["slowest_answer_s"] > ANSWER_S,
        "decoder_peak_mib": summary["decoder_peak_mib"] >= DECODER_MIB,
        "others": not (others["lost"] == 0 == others["dropped"] and others["age_max_ms"] <= LATE_MS),
    }
    return [name for name, is_wrong in wrong.items() if is_wrong]


def table(result: dict[str, Any]) -> Table:
    """The summary, one figure a line."""
    rows = Table(title=f"hostile inputs of seed {result['seed']}, {result['hardware']}, {result['date']}")
    rows.add_column("")
    rows.add_column("", justify="right")
    for name, figure in result["summary"].items():
        rows.add_row(name, json.dumps(figure))
    for form, counted in result["answers"].items():
        rows.add_row(form, ", ".join(f"{answer} {count}" for answer, count in counted.items()))
    for seconds, what in result["worst"][:8]:
        rows.add_row(f"{seconds:.2f} s", what)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input: any of them can be sent again")
    parser.add_argument("--out", type=Path, help="where to write the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone on standard output")
    wanted = parser.parse_args()
    console = Console(stderr=True)
    with console.status(f"{wanted.inputs} inputs ..."):
        result = asyncio.run(attack(Plan(wanted.seed, wanted.inputs, wanted.first)))
    if wanted.out is not None:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(result))
    console.print(table(result))
    sys.exit(1 if result["summary"]["broken"] else 0)


if __name__ == "__main__":
    main()
