"""Hours of many sessions in as little time as the machine needs for them: does anything grow, and do the books balance?

The bundled model, or another one with weights. Every session gets a picture a second of its own time and now and then a
question; the books are checked at every compaction.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from bench.camera import Album, Blocks
from bench.host import slope
from bench.stream import Streams
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import open_checkpoint
from workers.models.hub import resolve

MIB = 2**20
SAMPLES = 240
SETTLED = 0.25
PICTURES = 61  # of each camera, over and over: shown by each session at other times


@dataclass(frozen=True, slots=True)
class Growth:
    """`hours` of session time of so many sessions of `budget` tokens, each asked every so many seconds of its time."""

    hours: float = 2.0
    sessions: int = 40
    budget: int = 1_376
    every: int = 30
    answer_tokens: int = 32
    policy: str = "infinipot"
    model: str = "mini"
    makers: int | None = None


def grow(load: Growth, device: str) -> dict[str, Any]:
    """Memory at evenly spaced moments, and its slope for an hour of session time once it has settled."""
    checkpoint = open_checkpoint(resolve(load.model), device, torch.float32 if device == "cpu" else torch.bfloat16)
    tokens = (checkpoint.pixels.side // checkpoint.pixels.factor) ** 2
    settings = EngineSettings(
        pool_tokens=load.sessions * load.budget + 32,
        step_tokens=(tokens + 4) * load.sessions + load.sessions,
        step_pictures=load.sessions,
        check_books=True,
    )
    album = Album(Blocks(checkpoint.pixels.side), load.sessions, PICTURES, load.makers, again=True)
    streams = Streams(checkpoint, settings, album)
    names = [f"s{number}" for number in range(load.sessions)]
    for name in names:
        streams.open(name, load.budget, load.policy)
    seconds, started, samples = round(3600 * load.hours), time.perf_counter(), []
    for second in range(seconds):
        for number, name in enumerate(names):
            if (second + number) % load.every == 0:
                streams.ask(name, f"{name}-{second}", load.answer_tokens)
        streams.fill(1)
        streams.forget()
        if second % max(1, seconds // SAMPLES) == 0:
            samples.append(_sample(second / 3600, streams, device))
            print(samples[-1], flush=True)
    taken = time.perf_counter() - started
    streams.run(lambda: streams.idle)
    streams.engine.pool.check_integrity()
    streams.close()
    return {
        **_slopes(samples),
        "hours": load.hours,
        "sessions": load.sessions,
        "policy": load.policy,
        "pictures": seconds * load.sessions,
        "answers": streams.answered,
        "seconds": round(taken, 1),
        "pages_left": streams.engine.pool.pages_used,
        "samples": samples,
    }


def _sample(hour: float, streams: Streams, device: str) -> dict[str, float]:
    gc.collect()
    return {
        "hour": round(hour, 4),
        "host_mib": round(psutil.Process().memory_info().rss / MIB, 2),
        "device_mib": round(torch.cuda.memory_allocated() / MIB, 2) if device == "cuda" else 0.0,
        "reserved_mib": round(torch.cuda.memory_reserved() / MIB, 2) if device == "cuda" else 0.0,
        "pages": streams.engine.pool.pages_used,
    }


def _slopes(samples: list[dict[str, float]]) -> dict[str, float]:
    settled = samples[int(SETTLED * len(samples)) :]
    return {
        f"{name}_an_hour": round(slope([(each["hour"], each[name]) for each in settled]), 3)
        for name in ("host_mib", "device_mib", "reserved_mib")
    }
