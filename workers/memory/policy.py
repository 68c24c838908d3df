"""How a trunk is kept inside its budget: what a policy sees and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Kind, Slots
from workers.memory.chain import Block, slots_of
from workers.memory.facts import Facts
from workers.memory.pool import PagePool


@dataclass(frozen=True, slots=True)
class Contents:
    """A trunk as its policy sees it: blocks, oldest first, and what is known of their tokens.

    Arrays over blocks are [blocks]; arrays over tokens have the tokens of all blocks in turn, in each plane its own.
    """

    blocks: tuple[Block, ...]
    pool: PagePool
    facts: Facts

    @property
    def pages(self) -> NDArray[np.int64]:
        return np.array([block.pages.shape[-1] for block in self.blocks], dtype=np.int64)

    @property
    def header(self) -> NDArray[np.bool_]:
        """The blocks that hold the sinks and the system's turn."""
        return np.array([block.kind == Kind.SYSTEM for block in self.blocks], dtype=np.bool_)

    def slots(self) -> Slots:
        return np.concatenate([slots_of(self.pool, block) for block in self.blocks], axis=-1)

    def token_ids(self) -> NDArray[np.int32]:
        """Ids [layers, groups, n] into the fact table."""
        return self.pool.read_ids(self.slots())

    def keys(self) -> Tensor:
        """Keys [layers, groups, n, heads, head_dim] as stored."""
        return gathered(self.pool.store.keys, self.slots())

    def values(self) -> Tensor:
        """Values [layers, groups, n, heads, head_dim]."""
        return gathered(self.pool.store.values, self.slots())


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays. Blocks in `whole` [blocks] stay as they are.

    Of all others only the tokens `survivors` [layers, groups, m] stay, in each plane its own, equally many; they are
    gathered into a block of their own, in the order given. None: nothing of them stays.
    """

    whole: NDArray[np.bool_]
    survivors: NDArray[np.int32] | None = None


class Policy(Protocol):
    """A small object over arrays and tensors; it sees no sessions and holds nothing of any."""

    @property
    def name(self) -> str: ...

    def keep(self, contents: Contents, pages: int) -> Keep:
        """What stays when the trunk has to fit into `pages` pages; a policy that cannot make it fit keeps too much."""
        ...


def gathered(planes: Tensor, slots: Slots) -> Tensor:
    """Entries [layers, groups, n, ...] of a pool's tensor [layers, groups, slots, ...]."""
    return planes[(*plane_axes(planes, slots), torch.from_numpy(slots).to(planes.device))]


def scattered(planes: Tensor, slots: Slots, entries: Tensor) -> None:
    """Writes entries [layers, groups, n, ...] into a pool's tensor [layers, groups, slots, ...]."""
    planes[(*plane_axes(planes, slots), torch.from_numpy(slots).to(planes.device))] = entries


def plane_axes(planes: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
    layers, groups, _ = slots.shape
    layer, group = (torch.arange(count, device=planes.device) for count in (layers, groups))
    return layer[:, None, None], group[None, :, None]
