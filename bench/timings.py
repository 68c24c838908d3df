"""What a GPU takes for single calls, as commands that tell of many of them."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from bench.machine import machine

Call = Callable[[], object]

REPLAYS = 7


def tell(program: str, about: str, figures: Iterable[tuple[str, float]]) -> None:
    """A command's whole run: prints each of its `figures`, microseconds by name, and writes them if asked."""
    parser = argparse.ArgumentParser(prog=program, description=about.split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures")
    wanted = parser.parse_args()
    told = {}
    torch.manual_seed(0)
    with torch.inference_mode():
        for name, microseconds in figures:
            told[name] = microseconds
            print(f"{name:<44}{microseconds:>10.1f}", flush=True)
    if wanted.json:
        wanted.json.write_text(json.dumps({"machine": machine("cuda", torch.get_num_threads()), "us": told}) + "\n")


def timed(calls: Sequence[Call]) -> float:
    """Microseconds a call."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    taken: list[float] = []
    for _ in range(REPLAYS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        taken.append(1000 * start.elapsed_time(stop) / len(calls))
    return statistics.median(taken)
