"""What several ranks do of one order: each its share, and together the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Team
from workers.engine.device import Device
from workers.memory.compaction import Gathering
from workers.models.checkpoint import Checkpoint
from workers.parallel.orders import Look


def no_tokens(checkpoint: Checkpoint) -> Tensor:
    """Tokens [0, width] like those that the model's decoder takes from its vision tower."""
    return checkpoint.model.decoder.embed_tokens.weight.new_empty(0, checkpoint.config.vision.token_width)


class Shares:
    """A rank's device, as one of a team."""

    def __init__(self, device: Device, team: Team, nothing: Tensor) -> None:
        """`nothing` [0, width]: tokens as the vision tower gives them, but none."""
        self.device, self.team = device, team
        self._nothing = nothing
        self._groups = device.pool.store.keys.shape[1]

    @property
    def divided(self) -> bool:
        """Whether head groups are divided among the ranks; else each rank has some heads of the only one."""
        return self._groups < self.device.pool.shape.groups

    @property
    def first_group(self) -> int:
        return self.team.rank * self._groups if self.divided else 0

    def exchange(self, looks: Sequence[Look], mine: Sequence[Tensor]) -> Mapping[int, Tensor]:
        """Tokens of all pictures by their names, where each rank has encoded its own, in their order."""
        tokens: dict[int, Tensor] = {}
        for rank in range(self.team.size):
            theirs = [look for look in looks if look.rank == rank]
            counts = [self._count(look) for look in theirs]
            own = rank == self.team.rank and mine
            block = torch.cat(list(mine)) if own else self._nothing.new_empty(sum(counts), self._nothing.shape[1])
            parts = torch.split(self.team.told(block, by=rank), counts)
            tokens.update((look.name, part) for look, part in zip(theirs, parts, strict=True))
        return tokens

    def gather(self, jobs: Sequence[Gathering]) -> list[Tensor]:
        """What is told of survivors in all planes, for each job; of the candidates, rank 0 alone need be told.

        Each rank moves the survivors of its own heads.
        """
        told = self.team.told(torch.cat([job.told for job in jobs], dim=-1))
        apart = torch.split(told, [job.size for job in jobs], dim=-1)
        found = self.device.gather([self._own(job, each) for job, each in zip(jobs, apart, strict=True)])
        if not self.divided:
            return found
        joined = self.team.joined(torch.cat(found, dim=-1)).movedim(0, 2).flatten(2, 3)
        return list(torch.split(joined, [job.count for job in jobs], dim=-1))

    def _count(self, look: Look) -> int:
        down, across = self.device.eye.size(look.height, look.width)
        return down * across

    def _own(self, job: Gathering, told: Tensor) -> Gathering:
        return replace(
            job,
            sources=self._cut(job.sources),
            targets=self._cut(job.targets),
            recent=self._cut(job.recent),
            told=told.narrow(2, self.first_group, self._groups),
        )

    def _cut(self, table: NDArray[Any]) -> NDArray[Any]:
        """The rank's planes of a table [layers, groups, n]; one that stands for all planes stays."""
        return table if table.shape[1] == 1 else table[:, self.first_group : self.first_group + self._groups]
