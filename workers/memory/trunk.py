"""The trunk: a session's memory, kept inside its budget by a policy and inside the trained length by re-anchoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Kind, Turn, joined, sent
from workers.memory.anchor import closed
from workers.memory.chain import Block, Chain, all_pages
from workers.memory.compaction import Gathering, Readback, gather
from workers.memory.facts import Facts
from workers.memory.policy import Contents, Keep, Policy, Rank
from workers.memory.pool import Share

RECENT = 8  # newest frames that survivors are compared with


Gather = Callable[[Sequence[Gathering]], list[Tensor]]
"""Does what `compaction.gather` does, in the memory of one pool."""


class Watch(Protocol):
    """Is told of each compaction: what was gathered and what is `told` of the survivors, then that it is done."""

    def gathered(self, jobs: Sequence[Gathering], told: Sequence[Tensor]) -> None: ...

    def compacted(self, trunks: Sequence[Trunk]) -> None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trunk as it was: its blocks, each page of which is pinned until `release`."""

    blocks: tuple[Block, ...]
    share: Share

    def release(self) -> None:
        """Gives the pins up; once."""
        self.share.drop(all_pages(self.blocks))


@dataclass(frozen=True, slots=True)
class Leaving:
    """Tokens `ids` that have left a trunk, of which survivors come back in a `core` at `place` among its blocks."""

    trunk: Trunk
    job: Gathering
    core: Block
    place: int
    ids: NDArray[np.int32]


class Trunk(Chain):
    """Blocks, oldest first, of which the first is the header."""

    def __init__(
        self,
        share: Share,
        facts: Facts,
        policy: Policy,
        turn: Turn,
        watch: Watch | None = None,
        gathering: Gather | None = None,
    ) -> None:
        """`watch` is told of compactions, and is the same for all trunks in a pool, as is what does the `gathering`."""
        super().__init__(share, facts)
        self.policy, self.turn_keys, self.watch = policy, turn, watch
        self.gather: Gather = gathering or (lambda jobs: gather(share.pool.store, turn, jobs))
        self._unread: list[Readback] = []

    def snapshot(self) -> Snapshot:
        """The trunk of this moment, without copying; it costs pages only once the trunk has moved on."""
        self.share.hold(all_pages(self.blocks))
        return Snapshot(self.blocks, self.share)

    def shrink(self, pages: int) -> bool:
        """Lets the policy bring the trunk down to `pages` pages; whether it did."""
        return shrink([(self, pages)])[0]

    def drop_oldest(self) -> bool:
        """Drops the oldest block that is not the header, whatever the policy; False if there is none."""
        rest = [index for index, block in enumerate(self.blocks) if block.kind != Kind.SYSTEM]
        if rest:
            whole = np.ones(len(self.blocks), dtype=np.bool_)
            whole[rest[0]] = False
            compact([(self, Keep(whole))])
        return bool(rest)

    def close_gaps(self, coming: int) -> int:
        """Re-anchors the blocks; by how many positions whatever comes moves down, of which `coming` is the smallest."""
        blocks, moved = closed(self.blocks, coming)
        self._become(blocks)
        return moved

    def check_integrity(self) -> None:
        self.settle()
        super().check_integrity()

    def settle(self) -> None:
        """Enters in the books which tokens have survived."""
        for readback in self._unread:
            told = readback.told()
            self._pool.write_ids(readback.slots, told[0])
            ids, firsts = np.unique(told[0], return_index=True)
            self.facts.forget(np.setdiff1d(readback.candidates, ids))
            self.facts.move(ids, told[2:].reshape(3, -1)[:, firsts].T)
        self._unread.clear()

    def let_go(self, keep: Keep) -> Leaving | None:
        """Drops what does not stay whole; what is to be gathered of it, if anything, for `take_in`.

        Survivors may be gathered into the pages that they leave: nothing else may be written before that.
        """
        self.settle()
        gone = [block for block, whole in zip(self.blocks, keep.whole, strict=True) if not whole]
        ids = _once([self._ids_of(block) for block in gone])
        leaving = [block for block in gone if block.kind == Kind.FRAME]
        told = None if keep.rank is None or not leaving else self._told_of(leaving)
        for block in gone:
            self.share.drop(block.pages)
        count = min(keep.survivors, self.share.free * self._pool.page_size, sum(block.tokens for block in leaving))
        place = int(np.argmin(keep.whole))
        self._become(tuple(block for block, whole in zip(self.blocks, keep.whole, strict=True) if whole))
        if keep.rank is None or told is None or not count:
            self.facts.forget(ids)
            return None
        pages = self.share.take(-(-count // self._pool.page_size))
        low, high = min(block.low - block.turn for block in leaving), max(block.high - block.turn for block in leaving)
        biased = any(block.biased for block in leaving)
        slots = self._pool.slots_of(pages)[:, :, :count]
        core = Block(Kind.FRAME, leaving[-1].time_ms, -1, -1, slots, pages, low, high, biased=biased, told=told)
        return Leaving(self, self._gathering(leaving, told, core, keep.rank), core, place, ids)

    def take_in(self, leaving: Leaving, told: Tensor) -> None:
        """The survivors are where they belong."""
        core = replace(leaving.core, told=told)
        self._become((*self.blocks[: leaving.place], core, *self.blocks[leaving.place :]))
        self._unread.append(Readback(told, core.slots, leaving.ids))

    def _gathering(self, blocks: Sequence[Block], told: Tensor, core: Block, rank: Rank) -> Gathering:
        """From blocks that have left the trunk into a core."""
        recent = [block for block in self.blocks if block.grid >= 0][-RECENT:]
        return Gathering(
            sources=joined([block.slots for block in blocks]),
            targets=core.slots,
            told=told,
            turns=np.repeat([block.turn for block in blocks], [block.tokens for block in blocks]),
            recent=joined([block.slots for block in recent]),
            recent_told=self.facts.told(_side_by_side([block.run for block in recent])),
            places=self.facts.places,
            rank=rank,
        )

    def _told_of(self, blocks: Sequence[Block]) -> Tensor:
        """What is known of the tokens of frames and cores, as in a Gathering."""
        shape, device = self._pool.shape, self._pool.store.keys.device
        frames = [block for block in blocks if block.told is None]
        known = self.facts.told(_side_by_side([block.run for block in frames]))
        spread = sent(known, device)[:, None, None].expand(-1, shape.layers, shape.groups, -1)
        apart = iter(torch.split(spread, [block.tokens for block in frames], dim=-1))
        return torch.cat([next(apart) if block.told is None else block.told for block in blocks], dim=-1)


def compact(keeps: Sequence[tuple[Trunk, Keep]]) -> None:
    """Keeps of trunks in one pool what is to stay of each."""
    changed = [(trunk, keep) for trunk, keep in keeps if not keep.whole.all()]
    left = [leaving for trunk, keep in changed if (leaving := trunk.let_go(keep))]
    watch = keeps[0][0].watch if keeps else None
    if left:
        trunk, jobs = left[0].trunk, [leaving.job for leaving in left]
        told = trunk.gather(jobs)
        for leaving, survivors in zip(left, told, strict=True):
            leaving.trunk.take_in(leaving, survivors)
        if watch is not None:
            watch.gathered(jobs, told)
    if watch is not None and changed:
        watch.compacted([trunk for trunk, _ in changed])


def shrink(demands: Sequence[tuple[Trunk, int]]) -> list[bool]:
    """Lets the policies of trunks bring each of them down to so many pages, all together; whether each did."""
    over = [(trunk, pages) for trunk, pages in demands if trunk.pages > pages]
    while over:
        before = [trunk.pages for trunk, _ in over]
        compact(
            [
                (trunk, trunk.policy.keep(Contents(trunk.blocks, trunk.share.pool.page_size), pages))
                for trunk, pages in over
            ]
        )
        over = [(trunk, pages) for (trunk, pages), held in zip(over, before, strict=True) if pages < trunk.pages < held]
    return [trunk.pages <= pages for trunk, pages in demands]


def _once(ids: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Each of several lists' ids once, in their order."""
    return ids[0] if len(ids) == 1 else np.unique(_side_by_side(ids))


def _side_by_side(ids: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *ids])
