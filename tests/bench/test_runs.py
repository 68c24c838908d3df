"""Medians of runs, and memory that is judged once it has settled."""

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from bench.runs import MIB, Run, add_arguments, repeated, report, tell

pytestmark = pytest.mark.unit


@dataclass(slots=True)
class Counted(Run):
    right: int = 0

    def figures(self) -> dict[str, float]:
        return {"right": self.right, **self.memory_figures()}


def test_memory_rises_by_what_it_rose_after_it_had_settled() -> None:
    run = Counted(memory=[(0.0, 900 * MIB), (120.0, 100 * MIB), (180.0, 102 * MIB), (240.0, 104 * MIB)])
    assert run.memory_figures() == {"memory_mib": 104, "memory_slope_mib_a_minute": pytest.approx(2)}


def test_what_sessions_lost_adds_up_by_reason() -> None:
    run = Counted()
    run.count_dropped({"late": 2})
    run.count_dropped({"late": 1, "full": 4})
    assert run.dropped == {"late": 3, "full": 4}


def test_the_median_of_the_runs_is_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, tmp_path / "results" / "counted.json")
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    runs = repeated(console, 3, lambda number: Counted(right=(5, 1, 4)[number], seconds=60.0, memory=[(60.0, MIB)]))
    result = report("counted", {"sessions": 2}, runs)
    assert (result["summary"]["right"], [figures["right"] for figures in result["figures"]]) == (4, [5, 1, 4])
    wanted = parser.parse_args(["--json"])
    tell(console, result, "counters", wanted)
    assert json.loads(capsys.readouterr().out) == json.loads(wanted.out.read_text())
    assert "2 counters" in shown.getvalue()
