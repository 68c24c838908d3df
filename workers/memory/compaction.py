"""Compaction: survivors of several trunks are picked and gathered together, in every layer and head group their own.

All of it happens on the device that the pool is on, in the order of its stream: the host knows how many survive and in
which pages, but reads back which ones they are only when it next needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import ALONE, KVStore, Slots, Team, Turn, indexed, joined, narrowed, sent
from workers.memory.policy import Candidates, Rank

_ELEMENTS = 1 << 25  # of keys in one go: bounds what a compaction takes beside the pool


@dataclass(frozen=True, slots=True)
class Gathering:
    """What becomes of one trunk's tokens: `targets` has room for those of `sources` that survive.

    Slots are [layers, groups, n], or [1, 1, n] where all planes have the same. `told` int32 [5, layers, groups, n] is
    what is known of the candidates: id, patch, and the position on three axes to which the key was rotated when it was
    stored; `turns` int64 [n] is how far they stand below it now. `recent` and `recent_told` [5, m] are those of the
    newest frames, which stay. Patches are below `places`.
    """

    sources: Slots
    targets: Slots
    told: Tensor
    turns: NDArray[np.int64]
    recent: Slots
    recent_told: NDArray[np.int32]
    places: int
    rank: Rank

    @property
    def size(self) -> int:
        return int(self.sources.shape[-1])

    @property
    def count(self) -> int:
        return int(self.targets.shape[-1])


class Readback:
    """What is told of survivors on its way to the host, and what it is about: the slots that they lie in, and the
    `candidates` that they were picked from.
    """

    def __init__(self, told: Tensor, slots: Slots, candidates: NDArray[np.int32]) -> None:
        self.slots, self.candidates = slots, candidates
        self._host, self._arrived = told, None
        if told.device.type == "cuda":
            self._host = torch.empty(told.shape, dtype=told.dtype, pin_memory=True).copy_(told, non_blocking=True)
            self._arrived = torch.cuda.current_stream(told.device).record_event()

    def told(self) -> NDArray[np.int32]:
        """As in a Gathering; waits until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy()


@torch.inference_mode()
def gather(store: KVStore, turn: Turn, jobs: Sequence[Gathering], team: Team = ALONE) -> list[Tensor]:
    """Copies survivors to their targets, turned to where they stand now; what is `told` of them, for each job.

    Jobs of one `rank` are one batch; a target may be among any job's own sources. A `team` has the heads of every
    group divided among its ranks, which choose together.
    """
    told: dict[int, Tensor] = {}
    for rank in dict.fromkeys(job.rank for job in jobs):
        alike = [place for place, job in enumerate(jobs) if job.rank is rank]
        batch = _Batch(store, turn, rank, [jobs[place] for place in alike], team)
        told.update(zip(alike, batch.run(), strict=True))
    return [told[place] for place in range(len(jobs))]


class _Batch:
    """Jobs of one rank; what all layers share is put on the device once."""

    def __init__(self, store: KVStore, turn: Turn, rank: Rank, jobs: Sequence[Gathering], team: Team) -> None:
        device = store.keys.device
        self._store, self._turn, self._rank, self._jobs, self._team = store, turn, rank, jobs, team
        self._places = max(job.places for job in jobs)
        self._sources = sent(joined([job.sources for job in jobs]), device).long()
        self._targets = sent(joined([job.targets for job in jobs]), device).long()
        self._recent = sent(joined([job.recent for job in jobs]), device).long()
        self._told = torch.cat([job.told for job in jobs], dim=-1)
        self._recent_told = sent(np.concatenate([job.recent_told for job in jobs], axis=-1), device).long()
        turns = np.concatenate([job.turns for job in jobs])
        self._turns = sent(turns, device) if turns.any() else None
        whose = np.arange(len(jobs))
        self._trunk = sent(np.repeat(whose, [job.size for job in jobs]), device)
        self._recent_trunk = sent(np.repeat(whose, [job.recent.shape[-1] for job in jobs]), device)

    def run(self) -> list[Tensor]:
        layers, groups, _, heads, dim = self._store.keys.shape
        tokens = len(self._trunk) + len(self._recent_trunk) + len(self._jobs) * self._places
        step = max(1, _ELEMENTS // (groups * tokens * heads * dim))
        told = [self._layers(first, min(first + step, layers)) for first in range(0, layers, step)]
        return list(torch.split(torch.cat(told, dim=1), [job.count for job in self._jobs], dim=-1))

    def _layers(self, first: int, last: int) -> Tensor:
        """The work for some of the layers; what is told of the survivors."""
        store, told = self._store, self._told[:, first:last]
        sources, targets, recent = (
            _planes(slots, first, last, store.keys.shape[1]) for slots in (self._sources, self._targets, self._recent)
        )
        keys, values, bias = self._of(store.keys, sources), self._of(store.values, sources), store.bias[sources]
        recent_positions = self._recent_told[2:, None, None].expand(-1, *told.shape[1:3], -1)
        candidates = Candidates(
            keys=self._upright(keys, told[2:]),
            values=values,
            patches=told[1].long(),
            trunk=self._trunk,
            sizes=tuple(job.size for job in self._jobs),
            counts=tuple(job.count for job in self._jobs),
            recent_keys=self._upright(self._of(store.keys, recent), recent_positions),
            recent_patches=self._recent_told[1],
            recent_trunk=self._recent_trunk,
            places=self._places,
            team=self._team,
        )
        places = self._team.told(best(candidates, self._rank(candidates)))
        told = told.gather(-1, places.expand(5, -1, -1, -1))
        keys = _picked(keys, places)
        if self._turns is not None:
            turns = self._turns[places]
            keys = self._turn(keys.flatten(0, 2), -turns.flatten()).view(keys.shape)
            told[2:] -= turns.to(told.dtype)
        for plane, survivors in ((store.keys, keys), (store.values, _picked(values, places))):
            indexed(plane)[targets] = indexed(narrowed(survivors, plane.dtype))
        store.bias[targets] = bias.gather(-1, places)
        return told

    def _of(self, plane: Tensor, slots: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Keys or values [layers, groups, n, heads, dim] in slots, in the type that they are computed in."""
        return indexed(plane)[slots].view(plane.dtype).to(self._store.dtype)

    def _upright(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys [layers, groups, n, heads, dim] as they were before they were rotated to positions [3, ...]."""
        return self._turn(keys.flatten(0, 2), -positions.flatten(1).long()).view(keys.shape)


def best(candidates: Candidates, scores: Tensor) -> Tensor:
    """Places int64 [layers, groups, all counts] of the best of each trunk among all candidates, in their order."""
    padded = candidates.padded(scores)
    chosen = padded.topk(max(candidates.counts), dim=-1).indices
    for each, count in zip(chosen, candidates.counts, strict=True):
        each[..., count:] = padded.shape[-1]
    ordered = chosen.sort(dim=-1).values
    offsets = np.cumsum((0, *candidates.sizes[:-1])).tolist()
    counted = zip(ordered, candidates.counts, offsets, strict=True)
    return torch.cat([each[..., :count] + offset for each, count, offset in counted], dim=-1)


def _planes(slots: Tensor, first: int, last: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of slots [layers or 1, groups or 1, n] into a pool's tensor [layers, groups, slots, ...]."""
    layer = torch.arange(first, last, device=slots.device)[:, None, None]
    group = torch.arange(groups, device=slots.device)[None, :, None]
    return layer, group, slots if len(slots) == 1 else slots[first:last]


def _picked(entries: Tensor, places: Tensor) -> Tensor:
    """Entries [layers, groups, n, heads, dim] at places [layers, groups, m]."""
    return entries.gather(2, places[..., None, None].expand(-1, -1, -1, *entries.shape[3:]))
