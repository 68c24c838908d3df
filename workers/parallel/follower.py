"""The ranks that are led: each has its share of the model and the memory, and does what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.core import Part, Team, sent
from workers.engine.batch import Following, Work
from workers.engine.device import Device, Pixels
from workers.engine.messages import PushFrame
from workers.engine.sampler import Drawn
from workers.engine.settings import EngineSettings
from workers.memory.compaction import Gathering
from workers.memory.policies import RANKS
from workers.models.checkpoint import Checkpoint
from workers.parallel.links import Link
from workers.parallel.orders import (
    NOTHING,
    AnyOrder,
    Array,
    Begin,
    Clear,
    Encode,
    Encoded,
    Gather,
    Job,
    Keys,
    Look,
    Pass,
    Row,
    Warm,
)
from workers.parallel.shares import Shares, no_tokens
from workers.perception.glimpses import Change


class Follower:
    """Serves a link's orders. What it has of others' making, parts and features, it keeps under their names."""

    def __init__(self, checkpoint: Checkpoint, team: Team, pixels: Pixels, link: Link) -> None:
        """`checkpoint` holds the rank's share of the model; `pixels` gives a frame's picture."""
        self._checkpoint, self._team, self._pixels, self._link = checkpoint, team, pixels, link
        self._rank: Rank | None = None

    def serve(self) -> None:
        """Until rank 0 closes the link or is gone."""
        for order in self._link.orders():
            if isinstance(order, Begin):
                self._rank = None  # its memory is free before another one's is taken
                self._rank = self._begun(order.settings)
            elif self._rank is None:
                raise RuntimeError("rank 0 orders before it begins")
            else:
                self._rank.obey(order)

    def _begun(self, settings: EngineSettings) -> Rank:
        device = Device(self._checkpoint, settings, self._pixels, team=self._team)
        return Rank(Shares(device, self._team, no_tokens(self._checkpoint)), self._link)


class Rank:
    """One rank of an engine."""

    def __init__(self, shares: Shares, link: Link) -> None:
        self._shares, self._device, self._link = shares, shares.device, link
        self._parts: dict[int, Part] = {}
        self._features: dict[int, torch.Tensor] = {}
        self._torch = self._device.pool.store.keys.device
        self._unknown = Drawn(torch.zeros(1, dtype=torch.int64, device=self._torch))

    def obey(self, order: AnyOrder) -> None:
        if isinstance(order, Pass):
            self._pass(order)
        elif isinstance(order, Encode):
            self._encode(order.pictures)
        elif isinstance(order, Gather):
            self._shares.gather([self._gathering(job) for job in order.jobs])
        elif isinstance(order, Clear):
            self._device.clear(order.slots.array())
        elif isinstance(order, Warm):
            self._device.warm()

    def _pass(self, order: Pass) -> None:
        for name in order.gone:
            self._parts.pop(name, None)
        for name in order.faded:
            self._features.pop(name, None)
        self._parts.update((keys.name, self._part(keys)) for keys in order.parts)
        self._device.run([self._work(row) for row in order.rows])

    def _encode(self, looks: Sequence[Look]) -> None:
        mine = [look for look in looks if look.rank == self._shares.team.rank]
        features = self._device.encode([_frame(look) for look in mine], [_change(look) for look in mine])
        self._link.report(Encoded([None if each.seen is None else Array.of(each.seen) for each in features]))
        self._features.update(self._shares.exchange(looks, [each.tokens for each in features]))

    def _work(self, row: Row) -> Work:
        features = None if row.features == NOTHING else self._features[row.features]
        if features is not None and row.patches is not None:
            features = features.index_select(0, sent(row.patches.array(), self._torch))
        return Work(
            tokens=row.tokens.array(),
            positions=row.positions.array(),
            slots=self._own(row.slots),
            parts=tuple(self._parts[name] for name in row.parts),
            wanted=row.wanted,
            features=features,
            following=Following(self._unknown, 0) if row.follows else None,
        )

    def _part(self, keys: Keys) -> Part:
        return Part(self._own(keys.slots), keys.turn, keys.biased)

    def _own(self, packed: Array) -> NDArray[Any]:
        """A table over all planes, where they differ, with this rank's own head groups first.

        All of it, so that ranks agree on whether all planes have the same, and on what hangs on that.
        """
        table = packed.array()
        return table if table.shape[:2] == (1, 1) else np.roll(table, -self._shares.first_group, axis=1)

    def _gathering(self, job: Job) -> Gathering:
        sources, shape = job.sources.array(), self._device.pool.shape
        told = (5, shape.layers, shape.groups, sources.shape[-1])
        return Gathering(
            sources=sources,
            targets=job.targets.array(),
            told=torch.empty(told, dtype=torch.int32, device=self._torch),
            turns=job.turns.array(),
            recent=job.recent.array(),
            recent_told=job.recent_told.array(),
            places=job.places,
            rank=RANKS[job.rank],
        )


def _frame(look: Look) -> PushFrame:
    """As much of a frame as its picture is known by."""
    return PushFrame(
        session_id="", sequence=0, t_ms=0, slot=look.slot, width=look.width, height=look.height, deadline=0.0
    )


def _change(look: Look) -> Change | None:
    if not look.stream:
        return None
    return Change(look.stream, None if look.patches is None else look.patches.array())
