"""Blocks of tokens in pages, one after another: what a trunk and a branch have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Kind, Pages, Part, Positions, Slots, joined
from workers.memory.facts import Facts
from workers.memory.pool import IntegrityError, Share


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens that came together and stay in pages of their own: the header, one frame, a text, or a core of survivors.

    A block never changes; one that grows or turns is replaced. Its tokens lie in `slots` of its `pages`, in their
    order. `low` and `high` are the smallest and largest position that its keys were rotated to when stored; they now
    stand `turn` lower. `grid` is its frame's number, or -1. `first` is the id of the first token of a run of `tokens`
    ids, or -1 where ids do not follow each other. In a core each plane has its own tokens: `told` int32 [5, layers,
    groups, tokens] is what is known of them, as in a Gathering.
    """

    kind: Kind
    time_ms: int
    grid: int
    first: int
    slots: Slots
    pages: Pages
    low: int
    high: int
    turn: int = 0
    biased: bool = False
    told: Tensor | None = None

    @property
    def tokens(self) -> int:
        return int(self.slots.shape[-1])

    @property
    def run(self) -> NDArray[np.int32]:
        """The ids of a block that is a run of them."""
        return np.arange(self.first, self.first + self.tokens, dtype=np.int32)

    @property
    def core(self) -> bool:
        """Whether survivors were gathered into it."""
        return self.told is not None


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens about to be written: a frame's grid, or a run of text, at `positions` [3, n].

    One that `joins` goes on in the text before it, in its last page, and stays and leaves with that. The first `lead`
    tokens of a grid's piece are text that stays and leaves with it. Of a grid that is not whole, `patches` are those
    that are there. `reach`: the smallest and largest position, of all of such a grid; None: those of the tokens.
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

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest position; those of a text follow each other along every axis."""
        if self.reach is not None:
            return self.reach
        if self.kind != Kind.FRAME:
            return int(self.positions[0, 0]), int(self.positions[0, -1])
        return int(self.positions.min()), int(self.positions.max())


@dataclass(frozen=True, slots=True)
class Draft:
    """Pages and slots for pieces that are being computed; nobody sees them before `Chain.commit`.

    Where it `grows`, the first piece goes on in the chain's last block.
    """

    pieces: tuple[Piece, ...]
    grows: bool
    pages: tuple[Pages, ...]
    apart: tuple[Slots, ...]
    version: int

    @property
    def slots(self) -> Slots:
        """Those of all pieces, one after the other."""
        return joined(self.apart)


class Chain:
    """A list of blocks within a session's share and fact table."""

    def __init__(self, share: Share, facts: Facts) -> None:
        self.share, self.facts = share, facts
        self._pool = share.pool
        self._version = 0
        self._parts: tuple[Part, ...] | None = None
        self._become(())

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self._blocks

    @property
    def free(self) -> int:
        """Pages left in the session's share."""
        return self.share.free

    def parts(self) -> tuple[Part, ...]:
        """All blocks as attention sees them."""
        if self._parts is None:
            self._parts = parts_of(self._blocks)
        return self._parts

    def pages_for(self, pieces: Sequence[Piece]) -> int:
        """Free pages that a draft of these pieces takes."""
        return sum(self._needs(pieces, self._tail(pieces[0])))

    def draft(self, pieces: Sequence[Piece]) -> Draft:
        """Slots for pieces. PoolExhausted if the share has too few free pages; nothing is taken then.

        A piece that does not join starts a page, so that it leaves whole pages when it goes.
        """
        tail = last = self._tail(pieces[0])
        needs = self._needs(pieces, tail)
        taken, given = self.share.take(sum(needs)), 0
        pages, slots = [], []
        for piece, need in zip(pieces, needs, strict=True):
            pages.append(taken[:, :, given : given + need])
            slots.append(self._slots(len(piece), last, pages[-1]))
            given, last = given + need, None
        return Draft(tuple(pieces), tail is not None, tuple(pages), tuple(slots), self._version)

    def commit(self, draft: Draft) -> None:
        """Makes a draft's tokens part of the chain, whole."""
        self._expect(draft)
        blocks, grows = self._blocks, draft.grows
        for piece, pages, slots in zip(draft.pieces, draft.pages, draft.apart, strict=True):
            first = self._told(piece)
            self._pool.write_ids(slots, np.arange(first, first + len(piece), dtype=np.int32))
            low, high = piece.ends
            if grows:
                blocks = (*blocks[:-1], _grown(blocks[-1], first, slots, pages, high))
            else:
                blocks += (Block(piece.kind, piece.time_ms, piece.grid, first, slots, pages, low, high),)
            grows = False
        self._become(blocks)

    def abandon(self, draft: Draft) -> None:
        """Gives a draft's pages back."""
        self._expect(draft)
        for pages in draft.pages:
            self.share.drop(pages)
        self._version += 1

    def clear(self) -> None:
        """Drops every block."""
        for block in self._blocks:
            self.facts.forget(self._ids_of(block))
            self.share.drop(block.pages)
        self._become(())

    def turn(self, by: int) -> None:
        """Moves all blocks down by `by` positions; their keys stay as stored, later tokens start a block."""
        self._become(tuple(replace(block, turn=block.turn + by) for block in self._blocks))

    def check_integrity(self) -> None:
        """IntegrityError unless blocks lie in their pages, and slots hold their tokens, all of which are known."""
        for block in self._blocks:
            if not np.array_equal(block.slots, self._pool.slots_of(block.pages)[:, :, : block.tokens]):
                raise IntegrityError(f"a block of {block.kind.name} lies in other slots than those of its pages")
            ids = self._pool.read_ids(block.slots)
            self.facts.of(ids)
            if block.first >= 0 and (ids != block.run).any():
                raise IntegrityError(f"a block of {block.kind.name} holds other tokens than its own")

    def _tail(self, piece: Piece) -> Block | None:
        """The block that a draft's first piece goes on in, if it does."""
        if not piece.joins or not self._blocks:
            return None
        last = self._blocks[-1]
        return last if last.kind != Kind.FRAME and last.turn == 0 else None

    def _needs(self, pieces: Sequence[Piece], tail: Block | None) -> list[int]:
        """Free pages that each piece takes, the first beside what is left of its tail's last page."""
        size = self._pool.page_size
        left = 0 if tail is None else -tail.tokens % size
        first, *others = [len(piece) for piece in pieces]
        return [max(0, -(-(first - left) // size)), *(-(-count // size) for count in others)]

    def _slots(self, count: int, tail: Block | None, fresh: Pages) -> Slots:
        """The next `count` slots: of what is left of the tail's last page, then of fresh pages."""
        left = 0 if tail is None else min(count, -tail.tokens % self._pool.page_size)
        if tail is None or not left:
            return self._pool.slots_of(fresh)[:, :, :count]
        places = np.arange(1, left + 1, dtype=np.int32)
        going_on: Slots = tail.slots[:, :, -1:] + places
        if left == count:
            return going_on
        return np.concatenate([going_on, self._pool.slots_of(fresh)[:, :, : count - left]], axis=-1)

    def _told(self, piece: Piece) -> int:
        """Enters a piece's tokens in the fact table; the first id."""
        if not piece.lead:
            return self.facts.add(piece.kind, piece.positions, piece.time_ms, piece.grid, piece.patches)
        lead, grid = np.split(piece.positions, [piece.lead], axis=1)
        first = self.facts.add(Kind.TEXT, lead, piece.time_ms)
        self.facts.add(piece.kind, grid, piece.time_ms, piece.grid, piece.patches)
        return first

    def _ids_of(self, block: Block) -> NDArray[np.int32]:
        """The tokens of a block, each once."""
        return block.run if block.first >= 0 else np.unique(self._pool.read_ids(block.slots))

    def _expect(self, draft: Draft) -> None:
        if draft.version != self._version:
            raise IntegrityError("the chain changed while a draft of it was under way")

    def _become(self, blocks: tuple[Block, ...]) -> None:
        """Has these blocks from now on."""
        self._blocks = blocks
        self.tokens = sum([block.tokens for block in blocks])
        self.pages = sum([block.pages.shape[-1] for block in blocks])
        self._parts = None
        self._version += 1


def parts_of(blocks: Sequence[Block]) -> tuple[Part, ...]:
    """Blocks that are turned alike are one part."""
    alike: dict[tuple[int, bool], list[Slots]] = {}
    for block in blocks:
        alike.setdefault((block.turn, block.biased), []).append(block.slots)
    return tuple(Part(joined(slots), turn, biased) for (turn, biased), slots in alike.items())


def all_pages(blocks: Sequence[Block]) -> Pages:
    """The pages of blocks, side by side."""
    return joined([block.pages for block in blocks])


def _grown(block: Block, first: int, slots: Slots, pages: Pages, high: int) -> Block:
    """A block that goes on with tokens from `first` on, in its last page and in others."""
    return Block(
        block.kind,
        block.time_ms,
        block.grid,
        block.first if block.first + block.tokens == first else -1,
        np.concatenate([block.slots, slots], axis=-1),
        np.concatenate([block.pages, pages], axis=-1) if pages.shape[-1] else block.pages,
        block.low,
        max(block.high, high),
    )
