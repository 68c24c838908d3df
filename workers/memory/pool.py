"""The page pool: all KV memory of a worker, handed out to sessions as shares that no other session can reach into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from workers.core import KVShape, KVStore, Pages, Slots, joined

NO_TOKEN = -1


class PoolExhausted(Exception):
    """A share has fewer free pages than were asked for, or the pool too few for another share."""


class IntegrityError(Exception):
    """The pool's books do not balance: a programming error, never a consequence of load."""


class PagePool:
    """Pages of `page_size` slots in each plane of (layer, head group).

    Pages are taken and given up in all planes at once: a table of theirs, and what counts holds, says the same of each.
    The token id of each slot has both axes: with per-head selection, slot j holds another token in each plane. A page
    belongs to one share from the share's opening to its closing.
    """

    def __init__(
        self,
        shape: KVShape,
        pages: int,
        page_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        wide: torch.dtype | None = None,
        held: KVShape | None = None,
    ) -> None:
        """`dtype` is what keys and values are stored in; if that is FLOAT8, `wide` is what they are computed in.

        The books are those of all planes of `shape`; `held` are the heads whose memory is here, if not all of them.
        """
        planes, here = (shape.layers, shape.groups), held or shape
        size = (here.layers, here.groups, pages * page_size, here.heads, here.head_dim)
        self.shape, self.pages, self.page_size = shape, pages, page_size
        self.page_bytes = page_size * shape.bytes_per_token(dtype)
        # Zeros, not whatever was there: a slot that weighs nothing must still hold finite values.
        self.store = KVStore(
            keys=torch.zeros(size, dtype=dtype, device=device),
            values=torch.zeros(size, dtype=dtype, device=device),
            bias=torch.zeros(size[:3], device=device),
            wide=wide,
        )
        # In memory, what the planes have in one slot lies side by side: most tokens are the same in all of them.
        self.token_ids = np.moveaxis(np.full((pages * page_size, *planes), NO_TOKEN, dtype=np.int32), 0, -1)
        self.references = np.zeros(pages, dtype=np.int16)
        self._shared = np.zeros(pages, dtype=np.bool_)
        self._shares: list[Share] = []

    @property
    def pages_reserved(self) -> int:
        """Pages that belong to shares, in use or not."""
        return int(self._shared.sum())

    @property
    def pages_used(self) -> int:
        return sum(share.held for share in self._shares)

    def open(self, pages: int) -> Share:
        """A share of `pages` pages, neighbours where possible. PoolExhausted if fewer are left."""
        free = np.flatnonzero(~self._shared)
        if len(free) < pages:
            raise PoolExhausted(f"{pages} pages asked for, {len(free)} of {self.pages} are left")
        neighbours = np.flatnonzero(free[pages - 1 :] - free[: len(free) - pages + 1] == pages - 1)
        first = int(neighbours[0]) if len(neighbours) else 0
        ids = free[first : first + pages]
        self._shared[ids] = True
        share = Share(self, ids)
        self._shares.append(share)
        return share

    def close(self, share: Share) -> NDArray[np.int32]:
        """Takes a share back with everything in it; the slots [n] that are to be cleared before they are used again."""
        self._shares.remove(share)
        self._shared[share.ids] = False
        self.references[share.ids] = 0
        slots = self.slots_of(share.ids)
        self.token_ids[:, :, slots] = NO_TOKEN
        return slots

    def slots_of(self, pages: NDArray[np.integer]) -> NDArray[np.int32]:
        """All slots of pages [..., n], as [..., n * page_size]."""
        places = np.arange(self.page_size, dtype=np.int32)
        slots: NDArray[np.int32] = pages.astype(np.int32)[..., None] * self.page_size + places
        return slots.reshape(*pages.shape[:-1], -1)

    def write_ids(self, slots: Slots, ids: NDArray[np.int32]) -> None:
        """Records which tokens [n] or [layers, groups, n] the slots hold from now on."""
        self.token_ids[_everywhere(slots)] = ids

    def read_ids(self, slots: Slots) -> NDArray[np.int32]:
        """The tokens [layers, groups, n] that slots hold."""
        found: NDArray[np.int32] = self.token_ids[_everywhere(slots)]
        return found

    def check_integrity(self) -> None:
        """IntegrityError unless every page has one share, and every share's pages are each free or held."""
        owned = np.zeros(self.pages, dtype=np.int64)
        for share in self._shares:
            np.add.at(owned, share.ids, 1)
            share.check_integrity()
        if owned.max(initial=0) > 1 or not np.array_equal(owned == 1, self._shared):
            raise IntegrityError("a page has two shares, or one that the pool knows nothing of")
        if self.references[owned == 0].any():
            raise IntegrityError("a page is held outside of every share")


class Share:
    """One session's pages: `take` and `drop` are all it ever does with the pool, so sessions cannot meet in a page."""

    def __init__(self, pool: PagePool, ids: NDArray[np.int64]) -> None:
        """For PagePool.open alone."""
        self.pool, self.ids = pool, ids
        self._free: list[int] = ids[::-1].tolist()
        self._none = joined([])

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def held(self) -> int:
        """Pages that somebody holds, each counted once."""
        return len(self.ids) - len(self._free)

    def take(self, count: int) -> Pages:
        """`count` free pages [1, 1, count], held once. PoolExhausted if there are fewer."""
        if count > self.free:
            raise PoolExhausted(f"{count} pages asked for, {self.free} of {self.size} are free")
        if not count:
            return self._none
        left = self.free - count
        pages = np.array([[self._free[left:][::-1]]], dtype=np.int32)
        del self._free[left:]
        self.hold(pages)
        return pages

    def hold(self, pages: Pages) -> None:
        """Holds pages once more: a pin."""
        self.pool.references[pages] += 1

    def drop(self, pages: Pages) -> None:
        """Gives up one hold on each page; those that nobody holds any more are free."""
        references = self.pool.references
        references[pages] -= 1
        self._free += pages[references[pages] == 0][::-1].tolist()

    def check_holds(self, held: Sequence[Pages]) -> None:
        """IntegrityError unless each page is held as often as it is listed."""
        expected = np.zeros_like(self.pool.references)
        for pages in held:
            np.add.at(expected, pages, 1)
        if not np.array_equal(expected[self.ids], self.pool.references[self.ids]):
            raise IntegrityError("pages are held by somebody unknown, or not by somebody who should")

    def check_integrity(self) -> None:
        """IntegrityError unless free and held pages together are the share's, each once."""
        references = self.pool.references[self.ids]
        if (references < 0).any() or (references > 0).sum() != self.held:
            raise IntegrityError("holds and free pages do not add up")
        if not np.array_equal(np.sort(self._free), self.ids[references == 0]):
            raise IntegrityError("the free list disagrees with the holds")


def _everywhere(slots: Slots) -> tuple[slice | NDArray[np.intp] | Slots, ...]:
    """What addresses slots [layers, groups, n], or [1, 1, n] in all planes, of a plane-wise array."""
    layers, groups, _ = slots.shape
    if (layers, groups) == (1, 1):
        return slice(None), slice(None), slots[0, 0]
    return np.arange(layers)[:, None, None], np.arange(groups)[None, :, None], slots
