"""How a trunk is kept inside its budget: what a policy sees and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from workers.core import ALONE, Kind, Team
from workers.memory.chain import Block


@dataclass(frozen=True, slots=True)
class Contents:
    """A trunk as its policy sees it: blocks, oldest first, and plain counts of them. Arrays are [blocks]."""

    blocks: tuple[Block, ...]
    page_size: int

    @property
    def pages(self) -> NDArray[np.int64]:
        return np.array([block.pages.shape[-1] for block in self.blocks], dtype=np.int64)

    @property
    def tokens(self) -> NDArray[np.int64]:
        return np.array([block.tokens for block in self.blocks], dtype=np.int64)

    @property
    def header(self) -> NDArray[np.bool_]:
        """The blocks that hold the sinks and the system's turn."""
        return np.array([block.kind == Kind.SYSTEM for block in self.blocks], dtype=np.bool_)

    @property
    def texts(self) -> NDArray[np.bool_]:
        """The blocks that are texts."""
        return np.array([block.kind == Kind.TEXT for block in self.blocks], dtype=np.bool_)

    @property
    def frames(self) -> NDArray[np.bool_]:
        """The blocks that are frames as they came."""
        return np.array([block.grid >= 0 for block in self.blocks], dtype=np.bool_)

    @property
    def cores(self) -> NDArray[np.bool_]:
        """The blocks that survivors of several frames were gathered into."""
        return np.array([block.core for block in self.blocks], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens of several trunks that have to go unless they survive, trunk after trunk, in some of the layers.

    `keys` (not rotated) and `values` [layers, groups, n, heads, head_dim]; `patches` int64 [layers, groups, n], -1 for
    text; `trunk` int64 [n] says whose each is. Of trunk i there are `sizes[i]`, of which `counts[i]` survive.
    Patches are below `places`. The newest frames, which stay, are there to be compared with: `recent_keys` [layers,
    groups, m, heads, head_dim], `recent_patches` int64 [m], `recent_trunk` [m]. The heads of a group may be divided
    among the ranks of a `team`; over them goes `mean`.
    """

    keys: Tensor
    values: Tensor
    patches: Tensor
    trunk: Tensor
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    recent_keys: Tensor
    recent_patches: Tensor
    recent_trunk: Tensor
    places: int
    team: Team = ALONE

    def mean(self, x: Tensor) -> Tensor:
        """The mean of x [..., heads] over all heads of a group, wherever they are."""
        return self.team.sum(x.mean(dim=-1)).div_(self.team.size)

    def padded(self, scores: Tensor) -> Tensor:
        """Scores [layers, groups, n] as [trunks, layers, groups, largest size], -inf where a trunk has no more."""
        apart = [each.movedim(-1, 0) for each in torch.split(scores, list(self.sizes), dim=-1)]
        return pad_sequence(apart, batch_first=True, padding_value=-torch.inf).movedim(1, -1)

    def joined(self, padded: Tensor) -> Tensor:
        """The opposite of `padded`."""
        return torch.cat([each[..., :size] for each, size in zip(padded, self.sizes, strict=True)], dim=-1)


Rank = Callable[[Candidates], Tensor]
"""Scores float [layers, groups, n] of candidates: the best survive, in each plane its own."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays. Blocks in `whole` [blocks] stay as they are.

    Of the frames and cores among the others, the `survivors` best by `rank` stay in each plane, if there is room for so
    many; they are gathered, in the order in which they came, into a block of their own. Nothing else stays.
    """

    whole: NDArray[np.bool_]
    survivors: int = 0
    rank: Rank | None = None


class Policy(Protocol):
    """A small object over counts; it sees no sessions and holds nothing of any. What tensors tell is up to a Rank."""

    @property
    def name(self) -> str: ...

    def keep(self, contents: Contents, pages: int) -> Keep:
        """What stays when the trunk has to fit into `pages` pages.

        It is asked again as long as the trunk does not fit but has become smaller.
        """
        ...
