"""What one GPU does with live streams into an engine in this process: arms of `python -m bench.engine --device cuda`.

A model of the Qwen2.5-VL-7B shape with random weights, 448 x 448 pictures of 256 tokens each from JPEG in host memory,
trunks of 4,096 tokens and more with every picture kept and the oldest evicted. Times are the host's, taken when the
device has done what it was given.
"""

from __future__ import annotations

import cProfile
import gc
import io
import math
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch

from bench.camera import Album, Blocks, View
from bench.host import percentile, together
from bench.load import ROOM, Load
from bench.stream import Streams
from workers.core import Fence
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint

Figures = dict[str, float]
_RESERVE = 16


class Alone(NamedTuple):
    """Seconds that each of some pictures took, and each of some questions until its first token."""

    pictures: list[float]
    firsts: list[float]


class Card:
    """Arms on one model, each on an engine of its own."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        load: Load,
        profile: Callable[[str], None] | None = None,
        kv_dtype: Literal["fp8"] | None = None,
    ) -> None:
        """`profile` is given tables of what a few steps of ingest and of decoding spend their time on."""
        self._checkpoint, self._load, self._profile, self._kv_dtype = checkpoint, load, profile, kv_dtype
        self._device = checkpoint.model.decoder.embed_tokens.weight.device
        self._tokens = checkpoint.pixels.side**2 // checkpoint.pixels.factor**2
        self.budget = load.pictures * self._tokens + ROOM

    def ingest(self) -> Figures:
        """Pictures a second when one is always waiting."""
        return self._ingest(Blocks(self._side), 0)

    def dropping(self, view: View) -> Figures:
        """Pictures a second of what cameras see that mostly stands still; `kept` is the share of tokens written."""
        return self._ingest(view, self._load.threshold)

    def _ingest(self, view: View, threshold: int) -> Figures:
        wanted = self._shown * (2 if threshold else 1)
        with self._streams(self._load.sessions, self._load.pictures_a_step, wanted, view, threshold) as streams:
            keys = _keys(streams)
            host, written, ahead = time.process_time(), streams.engine.counters.tokens, 3 * self._load.pictures_a_step
            streams.outcomes.clear()
            fps, pictures = self._sustained(streams, lambda: streams.top_up(ahead))
            host, written = time.process_time() - host, streams.engine.counters.tokens - written
            self._profiled(streams, self._load.pictures_a_step)
        return {
            "fps": round(fps, 2),
            "keys": keys,
            "kept": round(written / (self._tokens * pictures), 4),
            "dropped_similar": round(streams.outcomes["dropped_similar"] / pictures, 4),
            "host_ms_a_picture": round(1e3 * host / pictures, 2),
        }

    def decode(self) -> Figures:
        """Milliseconds a step for several answers at once on full trunks, by the times of their tokens: on the average,
        at the median, and the longest.
        """
        with self._streams(max(self._load.decoding), self._load.pictures_a_step) as streams:
            figures: Figures = {"keys": _keys(streams)}
            for count in self._load.decoding:
                names = [f"{count}-{number}" for number in range(count)]
                for number, name in enumerate(names):
                    streams.ask(f"s{number}", name, self._load.answer_tokens)
                streams.run(lambda names=names: streams.done.issuperset(names))  # type: ignore[misc]
                steps = together([streams.told[name] for name in names])
                figures |= {
                    f"step{count}_ms": _ms(statistics.fmean(steps)),
                    f"step{count}_p50_ms": _ms(statistics.median(steps)),
                    f"step{count}_max_ms": _ms(max(steps)),
                }
            for number in range(max(self._load.decoding)):
                streams.ask(f"s{number}", f"profiled-{number}", 30)
            self._profiled(streams, 0)
        return figures

    def quiet(self) -> Figures:
        """One session alone: a picture's way from JPEG into memory, and a question's first token, in the engine."""
        with self._streams(1, 1, self._load.quiet) as streams:
            (alone,) = self._alone(streams, ["s0"], "quiet")
        return {
            "frame_ms": _ms(statistics.median(alone.pictures)),
            "frame_p95_ms": _ms(percentile(alone.pictures, 0.95)),
            "first_token_ms": _ms(statistics.median(alone.firsts)),
            "first_token_p95_ms": _ms(percentile(alone.firsts, 0.95)),
        }

    def age(self) -> list[Figures]:
        """One session that grows old with every picture taken: what it costs, at evenly spaced ages in seconds.

        It is looked at first when its budget is full, last at the age that was asked for, each time beside a session
        whose budget has just become full, in turns: what else a machine does meanwhile is the same for both.
        """
        looks: list[Figures] = []
        count, shown = self._load.looks, round(self._load.age) + self._load.quiet
        with self._streams(1, 1, shown, room=2) as streams:
            self._fill(streams, "s0")
            youngest = streams.age("s0")
            for look in range(count):
                host, before = time.process_time(), streams.age("s0")
                self._grow(streams, youngest + look / max(count - 1, 1) * (self._load.age - youngest))
                host, grown = time.process_time() - host, streams.age("s0") - before
                looks.append({"age_s": round(streams.age("s0")), **self._beside(streams, look)})
                if grown:
                    looks[-1]["host_ms_a_picture"] = round(1e3 * host / grown, 3)
        return looks

    def _grow(self, streams: Streams, age: float) -> None:
        """Shows the old session a picture a second of its time until it is so old and has all of them in memory."""
        streams.run(
            lambda: streams.age("s0") >= age, lambda: streams.top_up(min(2, math.ceil(age - streams.age("s0"))))
        )
        streams.run(lambda: not streams.engine.sessions["s0"].frames)
        self._settle()

    def _beside(self, streams: Streams, look: int) -> Figures:
        """What the session costs, and one that has just become full of what the old one saw first."""
        young = f"young{look}"
        streams.open(young, self.budget, camera=0)
        self._fill(streams, young)
        old, fresh = self._alone(streams, ["s0", young], f"look{look}")
        streams.leave(young)
        session = streams.engine.sessions["s0"]
        return {
            "first_token_ms": _ms(statistics.median(old.firsts)),
            "first_token_p95_ms": _ms(percentile(old.firsts, 0.95)),
            "frame_ms": _ms(statistics.median(old.pictures)),
            "young_first_token_ms": _ms(statistics.median(fresh.firsts)),
            "young_frame_ms": _ms(statistics.median(fresh.pictures)),
            "kv_bytes": session.kv_bytes,
            "tokens": session.trunk.tokens,
        }

    def _fill(self, streams: Streams, name: str) -> None:
        """Shows a session pictures until its memory grows no more."""
        session, tokens = streams.engine.sessions[name], -1
        while session.trunk.tokens > tokens:
            tokens = session.trunk.tokens
            streams.take(name)

    def _alone(self, streams: Streams, sessions: Sequence[str], name: str) -> list[Alone]:
        """What some pictures and questions of each session, in turns, take when nothing else goes on."""
        found = [Alone([], []) for _ in sessions]
        for number in range(self._load.quiet):
            for session, alone in zip(sessions, found, strict=True):
                started = time.perf_counter()
                streams.take(session)
                self._settle()
                alone.pictures.append(time.perf_counter() - started)
                started, question = time.perf_counter(), f"{name}-{session}-{number}"
                streams.ask(session, question, 1)
                streams.run(lambda question=question: question in streams.done)  # type: ignore[misc]
                alone.firsts.append(streams.told[question][0] - started)
        return found

    @contextmanager
    def _streams(
        self,
        sessions: int,
        pictures_a_step: int,
        shown: int = 0,
        view: View | None = None,
        threshold: int = 0,
        room: int = 0,
    ) -> Iterator[Streams]:
        """Sessions whose trunks are full, and cameras that have so many more pictures ready for each to be `shown`.

        There is memory for as many, or for so many as there is to be `room` for.
        """
        gc.collect()  # the engine before this one gives its memory back
        load = self._load
        settings = EngineSettings(
            pool_tokens=max(sessions, room) * self.budget + _RESERVE,
            step_tokens=(self._tokens + 4) * pictures_a_step,
            step_pictures=pictures_a_step,
            floor_tokens=self._tokens,
            drop_threshold=threshold,
            kv_dtype=self._kv_dtype,
        )
        fill = load.pictures + 1 if not threshold else 5 * load.pictures
        album = Album(view or Blocks(self._side), sessions, fill + shown, load.makers)
        streams = Streams(self._checkpoint, settings, album)
        for number in range(sessions):
            streams.open(f"s{number}", self.budget)
        streams.fill(fill)
        self._settle()
        yield streams
        streams.close()

    @property
    def _shown(self) -> int:
        """Pictures of each session while ingest is sustained, as far as can be expected."""
        return int(self._load.seconds * self._load.expected_fps / self._load.sessions)

    @property
    def _side(self) -> int:
        return self._checkpoint.pixels.side

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
            self._some(4, streams, pictures)
        host = cProfile.Profile()
        host.runcall(self._some, 12, streams, pictures)
        for order in ("self_cuda_time_total", "self_cpu_time_total"):
            self._profile(profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90))
        for order in ("tottime", "cumulative"):
            told = io.StringIO()
            pstats.Stats(host, stream=told).sort_stats(order).print_stats(60)
            self._profile(told.getvalue())

    def _some(self, steps: int, streams: Streams, pictures: int) -> None:
        for _ in range(steps):
            streams.top_up(3 * pictures)
            streams.engine.step()
        self._settle()

    def _settle(self) -> None:
        fence = Fence(self._device)
        fence.mark()
        fence.wait()


def _keys(streams: Streams) -> int:
    """Tokens of a trunk, on the average."""
    return round(statistics.mean(session.trunk.tokens for session in streams.engine.sessions.values()))


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
