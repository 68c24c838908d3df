"""Step plans on record: what went through the decoder, what was drawn and what was gathered, to be read or done again.

A record is plain enough to be told (`told`) where something went wrong, and whole enough to be done again (`replay`) on
the memory that it began on: the same plan has to give the same tokens and the same pages.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from workers.core import KVStore
from workers.engine.batch import Following, Work
from workers.engine.sampler import Drawn, Sampler, sample
from workers.engine.watch import Unmoved
from workers.memory.compaction import Gathering

Run = Callable[[Sequence[Work]], Tensor]
"""Works through a decoder, as Runner.run does it."""
Gather = Callable[[Sequence[Gathering]], Sequence[Tensor]]
"""Survivors to where they belong, as compaction.gather does it."""


@dataclass(slots=True)
class Pass:
    """One pass through the decoder; `samplers` as they were before they drew `drawn`, nothing where nothing was."""

    works: tuple[Work, ...]
    samplers: tuple[Sampler, ...] = ()
    drawn: Drawn | None = None

    def told(self) -> dict[str, Any]:
        """Its rows as plain values: tokens (-1: not known to the host), positions, slots, keys seen; what it drew."""
        return {
            "rows": [_told(work) for work in self.works],
            "drawn": [] if self.drawn is None else self.drawn.read(),
        }


@dataclass(frozen=True, slots=True)
class Compaction:
    """Survivors that were gathered, and what was `outcome`: told of them, one for each job."""

    jobs: tuple[Gathering, ...]
    outcome: tuple[Tensor, ...]

    def told(self) -> dict[str, Any]:
        """How many survived of how many, for each job."""
        return {"gathered": [{"of": job.size, "survivors": job.count} for job in self.jobs]}


class Recorder(Unmoved):
    """A watch that keeps what happens from `begin` on: the memory as it stood, and every pass and compaction since."""

    def __init__(self) -> None:
        self.plan: list[Pass | Compaction] = []
        self._before: tuple[Tensor, ...] = ()

    def begin(self, store: KVStore) -> None:
        """Forgets what it has, and keeps a copy of a pool's memory."""
        self.plan.clear()
        self._before = tuple(each.clone() for each in _planes(store))

    def rewind(self, store: KVStore) -> None:
        """Puts the memory back to where the record begins."""
        for plane, before in zip(_planes(store), self._before, strict=True):
            plane.copy_(before)

    def passed(self, works: Sequence[Work], logits: Tensor) -> None:
        self.plan.append(Pass(tuple(map(_kept, works))))

    def drawing(self, samplers: Sequence[Sampler]) -> None:
        self._newest().samplers = tuple(copy.deepcopy(list(samplers)))

    def drew(self, drawn: Drawn) -> None:
        self._newest().drawn = drawn

    def gathered(self, jobs: Sequence[Gathering], told: Sequence[Tensor]) -> None:
        self.plan.append(Compaction(tuple(jobs), tuple(told)))

    def told(self) -> list[dict[str, Any]]:
        """The record as plain values, one for each pass and compaction, in order."""
        return [each.told() for each in self.plan]

    def replay(self, run: Run, gather: Gather, store: KVStore, *, forced: bool = False) -> list[list[int]]:
        """Does all of it again on the memory that it began on; what is drawn in each pass that draws.

        A token that the host had not read is the one that is drawn now or, if the record is `forced`, the one in it.
        """
        self.rewind(store)
        again: dict[Drawn, Drawn] = {}
        for each in self.plan:
            if isinstance(each, Compaction):
                gather(each.jobs)
                continue
            logits = run(each.works if forced else [_following(work, again) for work in each.works])
            if each.drawn is not None:
                again[each.drawn] = sample(logits, copy.deepcopy(each.samplers))
        return [drawn.read() for drawn in again.values()]

    def _newest(self) -> Pass:
        newest = self.plan[-1]
        if not isinstance(newest, Pass):
            raise RuntimeError("tokens are drawn after a pass")
        return newest


def _planes(store: KVStore) -> tuple[Tensor, ...]:
    return store.keys, store.values, store.bias


def _kept(work: Work) -> Work:
    """A work whose features are its own."""
    return work if work.features is None else replace(work, features=work.features.clone())


def _following(work: Work, again: Mapping[Drawn, Drawn]) -> Work:
    """A work on the token that was drawn anew, if it is on one that was drawn in the record."""
    follows = work.following
    if follows is None or follows.drawn not in again:
        return work
    return replace(work, following=Following(again[follows.drawn], follows.row))


def _told(work: Work) -> dict[str, Any]:
    return {
        "tokens": [-1] if work.following else work.tokens.tolist(),
        "positions": work.positions.tolist(),
        "slots": work.slots[0, 0].tolist(),
        "keys": sum(part.tokens for part in work.parts),
        "pictured": 0 if work.features is None else len(work.features),
        "wanted": work.wanted,
    }
