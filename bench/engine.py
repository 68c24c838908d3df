"""Frames per second of one stream: the engine beside `transformers`, on one machine, with the same weights and pixels.

    python -m bench.engine --device cpu [--model mini] [--threads 2] [--repeats 3] [--json [PATH]]
    python -m bench.engine --device cuda [--seconds 60] [--profile PATH] [--json [PATH]]

On a GPU: what it does with many streams at once, on a model of the Qwen2.5-VL-7B shape (see `bench/card.py`). On a CPU,
arms, each fed the same pictures one by one:
- `full`: the engine, keeping every frame as transformers does;
- `window`: the engine under policy `window`, with a trunk of at most 1,024 tokens;
- `transformers`: sdpa attention, DynamicCache, explicit position ids, decoder without the language head.

A stream grows from nothing past the largest number of keys, and each frame's stages are timed: preprocess (picture to
patches), vision, decoder. A figure is the median of the frames around a number of keys, and of that over the repeats.
The arms take their frames in turn, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.arms import Arm, EngineArm, Picture, Stages, TransformersArm
from bench.card import Card, Load
from bench.machine import Facts, machine
from bench.random_model import random_checkpoint
from workers.models.checkpoint import Checkpoint, open_checkpoint, save_model
from workers.models.families import read_config
from workers.models.hub import resolve
from workers.models.model import VisionLanguageModel

KEYS = (500, 1_000, 2_000, 4_000)
AROUND = 6
FULL_BUDGET, WINDOW_BUDGET = 6_144, 1_360  # with what is left beside it, the window's trunk is 1,024 tokens
RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT = RESULTS / "engine-DEVICE.json"

Runs = dict[str, list[list[Stages]]]


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    facts = machine(arguments.device, arguments.threads)
    if arguments.device == "cuda":
        _on_card(arguments, facts)
        return
    with tempfile.TemporaryDirectory() as scratch:
        source, folder = resolve(arguments.model), Path(scratch)
        weights = _spell_out(source, folder)
        checkpoint = open_checkpoint(folder, arguments.device, torch.float32)
        runs = _measure(_arms(folder, checkpoint, arguments.device), arguments.repeats, checkpoint.pixels.side)
    facts |= {"model": arguments.model, "weights": weights, "dtype": "torch.float32", "repeats": arguments.repeats}
    report = _report(facts, runs)
    _print(report)
    _write(arguments, asdict(report))


def _on_card(arguments: argparse.Namespace, facts: Facts) -> None:
    load = Load(seconds=arguments.seconds)
    checkpoint = random_checkpoint("cuda", torch.bfloat16)
    with ExitStack() as files:
        log = files.enter_context(arguments.profile.open("w")) if arguments.profile else None
        figures = Card(checkpoint, load, None if log is None else log.write).measure()
    facts |= {"model": "Qwen2.5-VL-7B shape", "weights": "random", "dtype": "torch.bfloat16"}
    for name, value in figures.items():
        print(f"{name}: {value}")
    _write(arguments, {"machine": facts, "load": asdict(load), "figures": figures, "arms": {}})


def _write(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    if arguments.json:
        path = RESULTS / f"engine-{arguments.device}.json" if arguments.json is DEFAULT else arguments.json
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report) + "\n")


def _spell_out(source: Path, folder: Path) -> str:
    """Writes a model where both sides can read it: in full precision, random where the source has no weights."""
    if list(source.glob("*.safetensors")):
        model, weights = open_checkpoint(source).model, "checkpoint"
    else:
        torch.manual_seed(0)
        model, weights = VisionLanguageModel(read_config(source)), "random"
    for path in source.glob("*.json"):
        if not path.name.endswith(".index.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    save_model(model, folder, "float32")
    return weights


def _arms(folder: Path, checkpoint: Checkpoint, device: str) -> list[Arm]:
    return [
        EngineArm("full", checkpoint, "full", FULL_BUDGET, device),
        EngineArm("window", checkpoint, "window", WINDOW_BUDGET, device),
        TransformersArm(folder, checkpoint, device),
    ]


def _measure(arms: Sequence[Arm], repeats: int, side: int) -> Runs:
    """Stages of each frame, by arm and repeat; the first arm, which keeps every frame, says when a stream is over."""
    runs: Runs = {arm.name: [] for arm in arms}
    for repeat in range(repeats):
        for arm in arms:
            arm.start()
            runs[arm.name].append([])
        longest = runs[arms[0].name][-1]
        while not longest or longest[-1].keys < KEYS[-1] + AROUND * 32:
            number = len(longest)
            for arm in arms:
                runs[arm.name][-1].append(arm.frame(_picture(repeat, number, side), number * 1000))
        for arm in arms:
            arm.stop()
    return runs


def _picture(repeat: int, number: int, side: int) -> Picture:
    """Noise over coarse blocks: no two alike, and none cheaper than another."""
    chance = np.random.default_rng((repeat, number))
    coarse = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    fine = chance.integers(0, 32, (side, side, 3), dtype=np.uint8)
    return (np.kron(coarse, np.ones((side // 8, side // 8, 1), np.uint8)) // 2 + fine).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Report:
    """`figures` are the engine's; `arms` has all arms' medians by the number of keys.

    `raw` has, by arm and repeat, a row for each frame: keys held when it came, microseconds of each stage.
    """

    machine: Facts
    figures: dict[str, float]
    arms: dict[str, dict[str, dict[str, float]]]
    raw: dict[str, list[list[tuple[int, int, int, int]]]]


def _report(facts: Facts, runs: Runs) -> Report:
    arms = {name: {str(keys): _at(keys, runs, name) for keys in KEYS} for name in runs}
    fps = {name: {keys: stages["fps"] for keys, stages in at.items()} for name, at in arms.items()}
    figures = {
        "full_fps_2000": fps["full"]["2000"],
        "window_fps_2000": fps["window"]["2000"],
        "full_vs_transformers_2000": round(fps["full"]["2000"] / fps["transformers"]["2000"], 3),
        "window_vs_transformers_2000": round(fps["window"]["2000"] / fps["transformers"]["2000"], 3),
        "window_4000_over_1000": round(fps["window"]["4000"] / fps["window"]["1000"], 3),
        "transformers_4000_over_1000": round(fps["transformers"]["4000"] / fps["transformers"]["1000"], 3),
    }
    raw = {name: [[_row(frame) for frame in run] for run in repeats] for name, repeats in runs.items()}
    return Report(facts, figures, arms, raw)


def _row(frame: Stages) -> tuple[int, int, int, int]:
    preprocess, vision, decoder = (round(1e6 * seconds) for seconds in (frame.preprocess, frame.vision, frame.decoder))
    return frame.keys, preprocess, vision, decoder


def _at(keys: int, runs: Runs, name: str) -> dict[str, float]:
    """Medians when the stream is as old as it takes to have `keys` keys with every frame kept."""
    medians: dict[str, list[float]] = {stage: [] for stage in ("preprocess", "vision", "decoder", "total")}
    held = []
    for longest, run in zip(runs["transformers"], runs[name], strict=True):
        nearest = sorted(range(len(longest)), key=lambda place: abs(longest[place].keys - keys))[:AROUND]
        held.append(statistics.median(run[place].keys for place in nearest))
        for stage, seconds in medians.items():
            seconds.append(statistics.median(getattr(run[place], stage) for place in nearest))
    ms = {f"{stage}_ms": round(1e3 * statistics.median(seconds), 3) for stage, seconds in medians.items()}
    return {"keys": statistics.median(held), "fps": round(1e3 / ms["total_ms"], 2), **ms}


def _print(report: Report) -> None:
    print(f"{'arm':<14}{'stream':>8}{'keys':>7}{'frames/s':>10}{'preprocess':>12}{'vision':>9}{'decoder':>9}  (ms)")
    for name, at in report.arms.items():
        for keys, row in at.items():
            stages = f"{row['preprocess_ms']:>12.1f}{row['vision_ms']:>9.1f}{row['decoder_ms']:>9.1f}"
            print(f"{name:<14}{keys:>8}{row['keys']:>7.0f}{row['fps']:>10.2f}{stages}")
    for name, value in report.figures.items():
        print(f"{name}: {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "--model", default="mini", help="a model of the Qwen2.5-VL family; without weights, random ones"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long ingest is sustained on a GPU")
    parser.add_argument("--profile", type=Path, help="also write where a GPU's time goes")
    where = f"also write the report (default: {RESULTS}/engine-DEVICE.json)"
    parser.add_argument("--json", type=Path, nargs="?", const=DEFAULT, help=where)
    return parser


if __name__ == "__main__":
    main()
