"""Frames per second of one stream: the engine beside `transformers`, on one machine, with the same weights and pixels.

Arms, each fed the same pictures one by one:
- `full`: the engine, keeping every frame as transformers does;
- `window`: the engine under policy `window`, with a trunk of at most 1,024 tokens;
- `transformers`: sdpa attention, DynamicCache, explicit position ids, decoder without the language head.

A stream grows from nothing past the largest number of keys, and each frame's stages are timed: preprocess (picture to
patches), vision, decoder. A figure is the median of the frames around a number of keys, and of that over the repeats.
The arms take their frames in turn, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.arms import Arm, EngineArm, Picture, Stages, TransformersArm
from bench.machine import Facts
from workers.models.checkpoint import Checkpoint, open_checkpoint, save_model
from workers.models.families import read_config
from workers.models.hub import resolve
from workers.models.model import VisionLanguageModel

KEYS = (500, 1_000, 2_000, 4_000)
AROUND = 6
FULL_BUDGET, WINDOW_BUDGET = 6_144, 1_360  # with what is left beside it, the window's trunk is 1,024 tokens
Runs = dict[str, list[list[Stages]]]


def compared(model: str, device: str, repeats: int, facts: Facts) -> Report:
    """All arms on `repeats` streams of the model."""
    with tempfile.TemporaryDirectory() as scratch:
        source, folder = resolve(model), Path(scratch)
        weights = _spell_out(source, folder)
        checkpoint = open_checkpoint(folder, device, torch.float32)
        runs = _measure(_arms(folder, checkpoint, device), repeats, checkpoint.pixels.side)
    return _report(facts | {"model": model, "weights": weights, "dtype": "torch.float32", "repeats": repeats}, runs)


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


def show(report: Report) -> None:
    print(f"{'arm':<14}{'stream':>8}{'keys':>7}{'frames/s':>10}{'preprocess':>12}{'vision':>9}{'decoder':>9}  (ms)")
    for name, at in report.arms.items():
        for keys, row in at.items():
            stages = f"{row['preprocess_ms']:>12.1f}{row['vision_ms']:>9.1f}{row['decoder_ms']:>9.1f}"
            print(f"{name:<14}{keys:>8}{row['keys']:>7.0f}{row['fps']:>10.2f}{stages}")
    for name, value in report.figures.items():
        print(f"{name}: {value}")
