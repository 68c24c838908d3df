"""Blocks of tokens in pages, one after another: what a trunk and a branch have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Kind, Pages, Part, Positions, Slots
from workers.memory.facts import Facts
from workers.memory.pool import IntegrityError, PagePool, Share


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens that came together and stay in pages of their own: the header, one frame, a text, or a core of survivors.

    A block never changes; one that grows or turns is replaced. `low` and `high` are the smallest and largest position
    that its keys were rotated to when stored; they now stand `turn` lower. `grid` is its frame's number, or -1.
    `first` is the id of the first token of a run of `tokens` ids, or -1 where ids do not follow each other. In a core
    each plane has its own tokens: `told` int32 [5, layers, groups, tokens] is what is known of them, as in a Gathering.
    """

    kind: Kind
    time_ms: int
    grid: int
    first: int
    tokens: int
    pages: Pages
    low: int
    high: int
    turn: int = 0
    biased: bool = False
    told: Tensor | None = None

    @property
    def core(self) -> bool:
        """Whether survivors were gathered into it."""
        return self.told is not None

    def filled(self, page_size: int) -> NDArray[np.int32]:
        """Slots in use of each page."""
        count = self.pages.shape[-1]
        filled = np.full(count, page_size, dtype=np.int32)
        filled[-1] = self.tokens - page_size * (count - 1)
        return filled


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens about to be written: a frame's grid, or a run of text, at `positions` [3, n].

    One that `joins` goes on in the text before it, in its last page, and stays and leaves with that. The first `lead`
    tokens of a grid's piece are text that stays and leaves with it. Of a grid that is not whole, `patches` are those
    that are there, and `reach` the smallest and largest position of all of it.
    """

    kind: Kind
    positions: Positions
    time_ms: int
    grid: int = -1
    joins: bool = False
    lead: int = 0
    patches: NDArray[np.int64] | None = None
    reach: tuple[int, int] | None = None

    def __len__(self) -> int:
        return int(self.positions.shape[1])


@dataclass(frozen=True, slots=True)
class Draft:
    """Pages and slots for pieces that are being computed; nobody sees them before `Chain.commit`."""

    pieces: tuple[Piece, ...]
    grows: tuple[bool, ...]
    pages: tuple[Pages, ...]
    slots: Slots
    version: int


class Chain:
    """A list of blocks within a session's share and fact table."""

    def __init__(self, share: Share, facts: Facts) -> None:
        self.share, self.facts = share, facts
        self._pool = share.pool
        self.blocks: tuple[Block, ...] = ()
        self._parts: tuple[Part, ...] | None = None
        self._version = 0

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    @property
    def pages(self) -> int:
        return sum(block.pages.shape[-1] for block in self.blocks)

    @property
    def free(self) -> int:
        """Pages left in the session's share."""
        return self.share.free

    def parts(self) -> tuple[Part, ...]:
        """All blocks as attention sees them."""
        if self._parts is None:
            self._parts = parts_of(self.blocks, self._pool.page_size)
        return self._parts

    def pages_for(self, pieces: Sequence[Piece]) -> int:
        """Free pages that a draft of these pieces takes."""
        return sum(self._need(pieces, index)[1] for index in range(len(pieces)))

    def draft(self, pieces: Sequence[Piece]) -> Draft:
        """Slots for pieces. PoolExhausted if the share has too few free pages; nothing is taken then.

        A piece that does not join starts a page, so that it leaves whole pages when it goes.
        """
        needs = [self._need(pieces, index) for index in range(len(pieces))]
        taken = self.share.take(sum(count for _, count in needs))
        cuts = np.cumsum([count for _, count in needs])[:-1]
        pages = (taken,) if len(needs) == 1 else tuple(np.split(taken, cuts, axis=-1))
        slots, tail = [], self.blocks[-1] if self.blocks else None
        for piece, (used, _), fresh in zip(pieces, needs, pages, strict=True):
            room = fresh if used == 0 or tail is None else np.concatenate([tail.pages[:, :, -1:], fresh], axis=-1)
            slots.append(self._pool.slots_of(room)[:, :, used : used + len(piece)])
            tail = None
        grows = tuple(self._tail(pieces, index) is not None for index in range(len(pieces)))
        return Draft(tuple(pieces), grows, pages, np.concatenate(slots, axis=-1), self._version)

    def commit(self, draft: Draft) -> None:
        """Makes a draft's tokens part of the chain, whole."""
        self._expect(draft)
        start = 0
        for piece, grows, pages in zip(draft.pieces, draft.grows, draft.pages, strict=True):
            slots = draft.slots[:, :, start : start + len(piece)]
            start += len(piece)
            first = self._told(piece)
            self._pool.write_ids(slots, np.arange(first, first + len(piece), dtype=np.int32))
            self._append(piece, first, pages, grows)
        self._changed()

    def abandon(self, draft: Draft) -> None:
        """Gives a draft's pages back."""
        self._expect(draft)
        for pages in draft.pages:
            self.share.drop(pages)
        self._version += 1

    def clear(self) -> None:
        """Drops every block."""
        self._forget(self.blocks)
        self.blocks = ()
        self._changed()

    def turn(self, by: int) -> None:
        """Moves all blocks down by `by` positions; their keys stay as stored, later tokens start a block."""
        self.blocks = tuple(replace(block, turn=block.turn + by) for block in self.blocks)
        self._changed()

    def check_integrity(self) -> None:
        """IntegrityError unless every slot in use holds the token that its block says, and that token is known."""
        for block in self.blocks:
            ids = self._pool.read_ids(slots_of(self._pool, block))
            self.facts.of(ids)
            if block.first >= 0 and (ids != np.arange(block.first, block.first + block.tokens)).any():
                raise IntegrityError(f"a block of {block.kind.name} holds other tokens than its own")

    def _need(self, pieces: Sequence[Piece], index: int) -> tuple[int, int]:
        """Slots already used of the page that a piece starts in (0: it starts a page), and the pages it takes."""
        page_size, tail = self._pool.page_size, self._tail(pieces, index)
        used = 0 if tail is None else tail.tokens % page_size
        return used, -(-(used + len(pieces[index])) // page_size) - (used > 0)

    def _tail(self, pieces: Sequence[Piece], index: int) -> Block | None:
        """The block that a piece goes on in, if it does."""
        last = self.blocks[-1] if self.blocks and index == 0 else None
        goes_on = pieces[index].joins and last is not None and last.kind != Kind.FRAME and last.turn == 0
        return last if goes_on else None

    def _told(self, piece: Piece) -> int:
        """Enters a piece's tokens in the fact table; the first id."""
        if not piece.lead:
            return self.facts.add(piece.kind, piece.positions, piece.time_ms, piece.grid, piece.patches)
        lead, grid = np.split(piece.positions, [piece.lead], axis=1)
        first = self.facts.add(Kind.TEXT, lead, piece.time_ms)
        self.facts.add(piece.kind, grid, piece.time_ms, piece.grid, piece.patches)
        return first

    def _append(self, piece: Piece, first: int, pages: Pages, grows: bool) -> None:
        least, most = piece.reach or (int(piece.positions.max()), 0)
        low, high = min(int(piece.positions.min()), least), max(int(piece.positions.max()), most)
        last = self.blocks[-1] if self.blocks else None
        if not grows or last is None:
            self.blocks += (Block(piece.kind, piece.time_ms, piece.grid, first, len(piece), pages, low, high),)
            return
        merged = replace(
            last,
            first=last.first if last.first + last.tokens == first else -1,
            tokens=last.tokens + len(piece),
            pages=np.concatenate([last.pages, pages], axis=-1) if pages.shape[-1] else last.pages,
            high=max(last.high, high),
        )
        self.blocks = (*self.blocks[:-1], merged)

    def _forget(self, blocks: Iterable[Block]) -> None:
        """Gives up blocks' pages and tokens."""
        for block in blocks:
            self.facts.forget(np.unique(self._pool.read_ids(slots_of(self._pool, block))))
            self.share.drop(block.pages)

    def _expect(self, draft: Draft) -> None:
        if draft.version != self._version:
            raise IntegrityError("the chain changed while a draft of it was under way")

    def _changed(self) -> None:
        self._parts = None
        self._version += 1


def parts_of(blocks: Sequence[Block], page_size: int) -> tuple[Part, ...]:
    """Blocks that are turned alike are one part."""
    alike: dict[tuple[int, bool], list[Block]] = {}
    for block in blocks:
        alike.setdefault((block.turn, block.biased), []).append(block)
    return tuple(
        Part(
            pages=np.concatenate([block.pages for block in group], axis=-1),
            filled=np.concatenate([block.filled(page_size) for block in group]),
            page_size=page_size,
            turn=turn,
            biased=biased,
        )
        for (turn, biased), group in alike.items()
    )


def slots_of(pool: PagePool, block: Block) -> Slots:
    """The slots [layers, groups, tokens] that a block's tokens lie in."""
    return pool.slots_of(block.pages)[:, :, : block.tokens]


def all_pages(pool: PagePool, blocks: Sequence[Block]) -> Pages:
    """The pages of blocks, side by side."""
    planes = (pool.shape.layers, pool.shape.groups, 0)
    return np.concatenate([np.empty(planes, dtype=np.int32), *(block.pages for block in blocks)], axis=-1)
