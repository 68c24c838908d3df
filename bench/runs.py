"""Runs of a server under load: what each of them shows, their medians, and how both are told."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from bench.host import hardware, slope, today

SETTLED_S = 120.0  # memory is judged from here on: lanes hold their last minute by then
MIB = 2**20


@dataclass(slots=True)
class Run(ABC):
    """What every run shows: memory of the server as (seconds since the run began, bytes), pictures dropped by reason,
    pictures sent, and its length in seconds.
    """

    memory: list[tuple[float, int]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    seconds: float = 0.0

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The run in single numbers."""

    def count_dropped(self, dropped: Mapping[str, int]) -> None:
        """Add what one session lost."""
        for reason, count in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def memory_figures(self) -> dict[str, float]:
        """Memory at the end, and its slope once the server has settled."""
        settled = [(at / 60, size / MIB) for at, size in self.memory if at >= SETTLED_S]
        return {
            "memory_mib": self.memory[-1][1] / MIB if self.memory else float("nan"),
            "memory_slope_mib_a_minute": slope(settled),
        }


Shown = TypeVar("Shown", bound=Run)


def add_arguments(parser: argparse.ArgumentParser, out: Path) -> None:
    """The options that all benchmarks of runs share."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone on standard output")


def repeated(console: Console, times: int, run: Callable[[int], Shown]) -> list[Shown]:
    """``run`` of 0 to ``times`` - 1, one after the other."""
    runs = []
    for number in range(times):
        with console.status(f"run {number + 1} of {times} ..."):
            runs.append(run(number))
    return runs


def report(benchmark: str, load: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that was measured, ready for JSON; the summary holds the medians."""
    figures = [run.figures() for run in runs]
    return {
        "command": f"python -m bench.{benchmark} " + " ".join(sys.argv[1:]),
        "date": today(),
        "hardware": hardware(),
        "load": dict(load),
        "summary": {name: statistics.median(one[name] for one in figures) for name in figures[0]},
        "figures": [{"seconds": run.seconds, **one} for run, one in zip(runs, figures, strict=True)],
        "runs": [asdict(run) for run in runs],
    }


def table(result: Mapping[str, Any], what: str) -> Table:
    """The medians, and each run beside them."""
    rows = Table(title=f"{result['load']['sessions']} {what}, {result['hardware']}, {result['date']}")
    for heading in ("", "median", *(f"{run['seconds']:.0f} s" for run in result["figures"])):
        rows.add_column(heading, justify="left" if not heading else "right")
    for name, median in result["summary"].items():
        rows.add_row(name, f"{median:.4g}", *(f"{run[name]:.4g}" for run in result["figures"]))
    return rows


def tell(console: Console, result: Mapping[str, Any], what: str, wanted: argparse.Namespace) -> None:
    """Write the result where the options want it, and show it."""
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(result))
    console.print(table(result, what))
