"""What one GPU does with live streams: the arms of `python -m bench.engine --device cuda`.

A model of the Qwen2.5-VL-7B shape with random weights, 448 x 448 pictures of 256 tokens each from JPEG in host memory,
trunks of 4,096 tokens and more with every picture kept and the oldest evicted. Times are the host's, taken when the
device has done what it was given.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch

from bench.stream import Streams
from workers.core import Fence
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint

Figures = dict[str, float]
_ROOM = 1_408  # tokens of a budget beside the pictures of its trunk: header, branches and pins
_RESERVE = 16


@dataclass(frozen=True, slots=True)
class Load:
    """How much is measured: seconds of ingest, sessions, pictures in a trunk and a step, answers and their tokens.

    `share` of the ceiling is how many pictures come while answers run.
    """

    seconds: float = 60.0
    sessions: int = 32
    pictures: int = 17
    pictures_a_step: int = 8
    share: float = 0.85
    answers: int = 16
    decoding: tuple[int, ...] = (1, 32, 64)
    answer_tokens: int = 400
    quiet: int = 200


class Card:
    """Arms on one model, each on an engine of its own."""

    def __init__(self, checkpoint: Checkpoint, load: Load, profile: Callable[[str], None] | None = None) -> None:
        """`profile` is given tables of what a few steps of ingest and of decoding spend their time on."""
        self._checkpoint, self._load, self._profile = checkpoint, load, profile
        self._device = checkpoint.model.decoder.embed_tokens.weight.device
        self._budget = load.pictures * checkpoint.pixels.side**2 // checkpoint.pixels.factor**2 + _ROOM

    def measure(self) -> Figures:
        """The figures of all arms."""
        figures = _told(self.ingest())
        figures |= _told(self.loaded(figures["ingest_full_fps"]))
        return figures | _told(self.decode()) | _told(self.quiet())

    def ingest(self) -> Figures:
        """Pictures a second when one is always waiting."""
        with self._streams(self._load.sessions, self._load.pictures_a_step) as streams:
            keys = statistics.mean(session.trunk.tokens for session in streams.engine.sessions.values())
            host = time.process_time()
            ahead = 3 * self._load.pictures_a_step
            fps, pictures = self._sustained(streams, lambda: streams.top_up(ahead))
            host = time.process_time() - host
            self._profiled(streams, self._load.pictures_a_step)
        return {
            "ingest_full_fps": round(fps, 2),
            "ingest_keys": round(keys),
            "ingest_host_ms_a_picture": round(1e3 * host / pictures, 2),
        }

    def loaded(self, ceiling: float) -> Figures:
        """Gaps between the tokens of answers while pictures come at a share of the `ceiling`, and how many get in.

        Beyond the ceiling answers would wait for the pictures, as far as their readers have something to read.
        """
        with self._streams(self._load.sessions, max(1, self._load.pictures_a_step // 2)) as streams:
            for number in range(self._load.answers):
                streams.ask(f"s{number % self._load.sessions}", f"q{number}", 10_000)
            streams.run(lambda: all(len(told) > 2 for told in streams.told.values()))
            fps, _ = self._sustained(streams, streams.cameras(self._load.share * ceiling))
            gaps = sorted(b - a for told in streams.told.values() for a, b in pairwise(told[1:]))
        return {
            "loaded_fps": round(fps, 2),
            "loaded_share": round(fps / ceiling, 3),
            "itl_under_load_ms": _ms(gaps[int(0.99 * len(gaps))]),
            "itl_under_load_p50_ms": _ms(gaps[len(gaps) // 2]),
        }

    def decode(self) -> Figures:
        """Milliseconds a step for several answers at once on full trunks, by the times of their tokens."""
        figures: Figures = {}
        with self._streams(max(self._load.decoding), self._load.pictures_a_step) as streams:
            for count in self._load.decoding:
                names = [f"{count}-{number}" for number in range(count)]
                for number, name in enumerate(names):
                    streams.ask(f"s{number}", name, self._load.answer_tokens)
                streams.run(lambda names=names: streams.done.issuperset(names))  # type: ignore[misc]
                told = [streams.told[name] for name in names]
                start, stop = max(each[0] for each in told), min(each[-1] for each in told)
                steps = sorted(at for at in told[0] if start <= at <= stop)
                figures[f"decode{count}_ms"] = _ms((steps[-1] - steps[0]) / (len(steps) - 1))
            for number in range(max(self._load.decoding)):
                streams.ask(f"s{number}", f"profiled-{number}", 30)
            self._profiled(streams, 0)
        return figures

    def quiet(self) -> Figures:
        """One session alone: a picture's way into memory, and a question's first token, in the engine."""
        pictures, firsts = [], []
        with self._streams(1, 1) as streams:
            for number in range(self._load.quiet):
                started, before = time.perf_counter(), len(streams.taken)
                streams.push("s0")
                streams.run(lambda before=before: len(streams.taken) > before)  # type: ignore[misc]
                self._settle()
                pictures.append(time.perf_counter() - started)
                started = time.perf_counter()
                streams.ask("s0", f"q{number}", 1)
                streams.run(lambda number=number: f"q{number}" in streams.done)  # type: ignore[misc]
                firsts.append(streams.told[f"q{number}"][0] - started)
        return {
            "frame_quiet_ms": _ms(statistics.median(pictures)),
            "first_token_engine_ms": _ms(statistics.median(firsts)),
        }

    @contextmanager
    def _streams(self, sessions: int, pictures_a_step: int) -> Iterator[Streams]:
        """Sessions whose trunks are full."""
        tokens = self._checkpoint.pixels.side**2 // self._checkpoint.pixels.factor**2
        settings = EngineSettings(
            pool_tokens=sessions * self._budget + _RESERVE,
            step_tokens=(tokens + 4) * pictures_a_step,
            step_pictures=pictures_a_step,
            floor_tokens=tokens,
        )
        streams = Streams(self._checkpoint, settings)
        for number in range(sessions):
            streams.open(f"s{number}", self._budget)
        streams.fill(self._load.pictures + 1)
        self._settle()
        yield streams
        streams.close()

    def _sustained(self, streams: Streams, feed: Callable[[], None]) -> tuple[float, int]:
        """Pictures a second while `feed` brings them, and how many these were."""
        started, before = time.perf_counter(), len(streams.taken)
        streams.run(lambda: time.perf_counter() - started > self._load.seconds, feed)
        self._settle()
        pictures = len(streams.taken) - before
        return pictures / (time.perf_counter() - started), pictures

    def _profiled(self, streams: Streams, pictures: int) -> None:
        if self._profile is None:
            return
        with torch.profiler.profile() as profiler:
            for _ in range(4):
                streams.top_up(3 * pictures)
                streams.engine.step()
            self._settle()
        for order in ("self_cuda_time_total", "self_cpu_time_total"):
            self._profile(profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90))

    def _settle(self) -> None:
        fence = Fence(self._device)
        fence.mark()
        fence.wait()


def _told(figures: Figures) -> Figures:
    """Says them at once, in case a later arm fails, and frees the engine that they were measured on."""
    print(figures, flush=True)
    gc.collect()
    return figures


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
