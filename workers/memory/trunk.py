"""The trunk: a session's memory, kept inside its budget by a policy and inside the trained length by re-anchoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.core import Kind, Slots, Turn
from workers.memory.anchor import closed
from workers.memory.chain import Block, Chain, all_pages, slots_of
from workers.memory.facts import Facts
from workers.memory.policy import Contents, Keep, Policy, gathered, scattered
from workers.memory.pool import Share


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trunk as it was: its blocks, each page of which is pinned until `release`."""

    blocks: tuple[Block, ...]
    share: Share

    def release(self) -> None:
        """Gives the pins up; once."""
        self.share.drop(all_pages(self.share.pool, self.blocks))


class Trunk(Chain):
    """Blocks, oldest first, of which the first is the header."""

    def __init__(self, share: Share, facts: Facts, policy: Policy, turn: Turn) -> None:
        super().__init__(share, facts)
        self._policy, self._turn_keys = policy, turn

    def snapshot(self) -> Snapshot:
        """The trunk of this moment, without copying; it costs pages only once the trunk has moved on."""
        self.share.hold(all_pages(self._pool, self.blocks))
        return Snapshot(self.blocks, self.share)

    def shrink(self, pages: int) -> bool:
        """Lets the policy bring the trunk down to `pages` pages; whether it did."""
        if self.pages > pages:
            self.compact(self._policy.keep(Contents(self.blocks, self._pool, self.facts), pages))
        return self.pages <= pages

    def compact(self, keep: Keep) -> None:
        """Drops what does not stay, gathering survivors into new pages: those that a snapshot pins stay as they were.

        ValueError if a survivor is not among the tokens that would go, PoolExhausted if there is no room to gather.
        """
        gone = [block for block, whole in zip(self.blocks, keep.whole, strict=True) if not whole]
        if not gone:
            return
        core = None if keep.survivors is None or not keep.survivors.size else self._gather(gone, keep.survivors)
        kept_ids = np.empty(0, np.int32) if core is None or keep.survivors is None else np.unique(keep.survivors)
        for block in gone:
            self.facts.forget(np.setdiff1d(self._ids_of(block), kept_ids))
            self.share.drop(block.pages)
        first = int(np.flatnonzero(~keep.whole)[0])
        kept = [block for block, whole in zip(self.blocks, keep.whole, strict=True) if whole]
        self.blocks = (*kept[:first], *([core] if core else []), *kept[first:])
        self._changed()

    def drop_oldest(self) -> bool:
        """Drops the oldest block that is not the header, whatever the policy; False if there is none."""
        rest = [index for index, block in enumerate(self.blocks) if block.kind != Kind.SYSTEM]
        if rest:
            whole = np.ones(len(self.blocks), dtype=np.bool_)
            whole[rest[0]] = False
            self.compact(Keep(whole))
        return bool(rest)

    def close_gaps(self, coming: int) -> int:
        """Re-anchors the blocks; by how many positions whatever comes moves down, of which `coming` is the smallest."""
        self.blocks, moved = closed(self.blocks, coming)
        self._changed()
        return moved

    def _gather(self, gone: Sequence[Block], survivors: NDArray[np.int32]) -> Block:
        """A core block of survivors [layers, groups, m], whose keys stand where they are stored."""
        sources = np.concatenate([slots_of(self._pool, block) for block in gone], axis=-1)
        turns = np.repeat([block.turn for block in gone], [block.tokens for block in gone])
        picked = _places(self._pool.read_ids(sources), survivors)
        count = survivors.shape[-1]
        pages = self.share.take(-(-count // self._pool.page_size))
        targets = self._pool.slots_of(pages)[:, :, :count]
        self._copy(np.take_along_axis(sources, picked, axis=-1), targets, -turns[picked])
        self._pool.write_ids(targets, survivors)
        ids, firsts = np.unique(survivors, return_index=True)
        self.facts.move(ids, -turns[picked].reshape(-1)[firsts])
        positions = self.facts.of(ids)["position"]
        low, high = int(positions.min()), int(positions.max())
        biased = any(block.biased for block in gone)
        return Block(Kind.FRAME, gone[-1].time_ms, -1, -1, count, pages, low, high, biased=biased)

    def _copy(self, sources: Slots, targets: Slots, turns: NDArray[np.int64]) -> None:
        """Copies keys, values and biases, all planes at once; keys are rotated on by `turns` where that is not 0."""
        store = self._pool.store
        keys = gathered(store.keys, sources)
        if turns.any():
            by = torch.from_numpy(turns.reshape(-1)).to(keys.device)
            keys = self._turn_keys(keys.flatten(0, 2), by).view(keys.shape)
        scattered(store.keys, targets, keys)
        scattered(store.values, targets, gathered(store.values, sources))
        scattered(store.bias, targets, gathered(store.bias, sources))

    def _ids_of(self, block: Block) -> NDArray[np.int32]:
        return np.unique(self._pool.read_ids(slots_of(self._pool, block)))


def _places(ids: NDArray[np.int32], wanted: NDArray[np.int32]) -> NDArray[np.intp]:
    """Where in ids [layers, groups, n] each of wanted [layers, groups, m] stands, plane by plane."""
    order = np.argsort(ids, axis=-1)
    places = np.empty(wanted.shape, dtype=np.intp)
    for plane in np.ndindex(ids.shape[:2]):
        ranks = np.searchsorted(ids[plane], wanted[plane], sorter=order[plane])
        places[plane] = order[plane][np.minimum(ranks, ids.shape[-1] - 1)]
    if (np.take_along_axis(ids, places, axis=-1) != wanted).any():
        raise ValueError("a survivor is not among the tokens that go")
    return places
