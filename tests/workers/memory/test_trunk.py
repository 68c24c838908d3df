"""Chains, the trunk's policies, compaction and re-anchoring, on keys that say which token they belong to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Kind, KVShape
from workers.memory.chain import Chain, Piece
from workers.memory.facts import Facts
from workers.memory.full import Full
from workers.memory.policy import Candidates, Contents, Keep
from workers.memory.pool import IntegrityError, PagePool, PoolExhausted, Share
from workers.memory.trunk import Trunk, shrink
from workers.memory.window import Window

pytestmark = pytest.mark.unit

PAGE, DIM = 4, 4
SHAPE = KVShape(layers=2, groups=2, heads=1, head_dim=DIM)


def turn(vectors: Tensor, by: Tensor) -> Tensor:
    """Not a rotation, but as additive as one: easy to read off."""
    return vectors + (by if by.ndim == 1 else by[0]).view(-1, 1, 1)


def trunk(policy: object = None, pages: int = 40, share: Share | None = None) -> Trunk:
    share = share or PagePool(SHAPE, pages, PAGE).open(pages)
    return Trunk(share, Facts(), policy or Window(), turn)  # type: ignore[arg-type]


def line(start: int, count: int) -> NDArray[np.int64]:
    return np.tile(np.arange(start, start + count), (3, 1))


def write(chain: Chain, *pieces: Piece) -> None:
    """Commits pieces, every key filled with its position, every value with its slot's token id."""
    draft = chain.draft(pieces)
    chain.commit(draft)
    store, pool = chain.share.pool.store, chain.share.pool
    where = np.concatenate([piece.positions[0] for piece in pieces])
    for layer, group in np.ndindex(2, 2):
        slots = torch.from_numpy(draft.slots[0, 0])
        store.keys[layer, group, slots] = torch.from_numpy(where).float().view(-1, 1, 1).expand(-1, 1, DIM)
        ids = torch.from_numpy(pool.token_ids[layer, group, draft.slots[0, 0]]).float()
        store.values[layer, group, slots] = ids.view(-1, 1, 1).expand(-1, 1, DIM)
    chain.check_integrity()
    pool.check_integrity()


def text(start: int, count: int, *, joins: bool = False, kind: Kind = Kind.TEXT) -> Piece:
    return Piece(kind, line(start, count), time_ms=0, joins=joins)


def frame(start: int, grid: int, count: int = 8) -> Piece:
    return Piece(Kind.FRAME, line(start, count), time_ms=grid * 1000, grid=grid)


def story(policy: object = None, frames: int = 5, pages: int = 40, share: Share | None = None) -> Trunk:
    """A header of 6 tokens with the first <|vision_start|>, then frames of 8, positions without gaps."""
    t = trunk(policy, pages, share)
    write(t, text(0, 6, kind=Kind.SYSTEM))
    for grid in range(frames):
        opening = [text(6, 1, joins=True)] if grid == 0 else []
        write(t, *opening, frame(7 + 8 * grid, grid))
    return t


def grids(t: Trunk) -> list[int]:
    return [block.grid for block in t.blocks]


def test_a_chain_grows_only_where_it_is_told_to() -> None:
    t = story(frames=2)
    assert [(b.kind, b.tokens, b.pages.shape[-1]) for b in t.blocks] == [
        (Kind.SYSTEM, 7, 2),
        (Kind.FRAME, 8, 2),
        (Kind.FRAME, 8, 2),
    ]
    assert (t.blocks[0].low, t.blocks[0].high) == (0, 6)
    write(t, text(23, 2))
    write(t, text(25, 3, joins=True))
    assert (t.blocks[-1].tokens, t.blocks[-1].pages.shape[-1]) == (5, 2)
    assert t.tokens == 7 + 16 + 5


def test_nothing_is_seen_before_it_is_committed_and_nothing_left_when_abandoned() -> None:
    t = story(frames=1)
    held, parts = t.share.held, t.parts()
    draft = t.draft([text(15, 2), frame(17, 1)])
    assert t.parts() is parts
    assert t.share.held == held + 3
    t.abandon(draft)
    assert t.share.held == held
    with pytest.raises(IntegrityError, match="changed while a draft"):
        t.commit(draft)


def test_a_draft_without_room_takes_nothing() -> None:
    t = trunk(pages=3)
    write(t, text(0, 6, kind=Kind.SYSTEM))
    with pytest.raises(PoolExhausted):
        t.draft([frame(6, 0)])
    assert t.share.free == 1


def test_the_window_keeps_the_header_and_the_newest_whole_frames() -> None:
    t = story(Window(), frames=5)
    assert t.shrink(8)
    assert grids(t) == [-1, 2, 3, 4]
    assert t.pages == 8
    assert t.shrink(7)
    assert grids(t) == [-1, 3, 4]
    assert not t.shrink(1)
    assert grids(t) == [-1]
    assert len(t.facts) == t.tokens == 7
    t.check_integrity()
    t.share.pool.check_integrity()


def test_full_keeps_everything_and_says_that_it_does_not_fit() -> None:
    t = story(Full(), frames=5)
    assert not t.shrink(8)
    assert len(t.blocks) == 6


def test_a_snapshot_keeps_the_pages_that_the_trunk_lets_go() -> None:
    t = story(frames=4)
    snapshot = t.snapshot()
    held = t.share.held
    t.shrink(4)
    assert t.share.held == held
    assert t.pages == 4
    snapshot.release()
    assert t.share.held == t.pages == 4
    t.share.pool.check_integrity()


class EveryOther:
    """Keeps of all frames but the newest every other token, another one in each head group."""

    name = "every-other"

    def keep(self, contents: Contents, pages: int) -> Keep:
        whole = contents.header.copy()
        whole[-1] = True
        return Keep(whole, int(contents.tokens[~whole].sum()) // 2, every_other)


def every_other(candidates: Candidates) -> Tensor:
    places = torch.arange(candidates.keys.shape[2])
    return torch.stack([places % 2 == 0, places % 2 == 1]).float().expand(2, 2, -1)


def test_survivors_are_gathered_in_each_plane_its_own() -> None:
    t = story(EveryOther(), frames=4)
    ids = {grid: block.first for grid, block in zip(grids(t), t.blocks, strict=True)}
    pinned = t.snapshot()
    before = t.share.pool.store.keys.clone()
    assert t.shrink(7)
    header, core, newest = t.blocks
    assert (core.tokens, core.pages.shape[-1], newest.grid) == (12, 3, 3)
    t.settle()
    pool = t.share.pool
    slots = pool.slots_of(core.pages)[:, :, :12]
    expected = [[ids[grid] + n for grid in range(3) for n in range(offset, 8, 2)] for offset in (0, 1)]
    for layer, group in np.ndindex(2, 2):
        assert pool.token_ids[layer, group, slots[0, 0]].tolist() == expected[group]
        values = pool.store.values[layer, group, torch.from_numpy(slots[0, 0])]
        assert values[:, 0, 0].tolist() == expected[group]
    t.check_integrity()
    pool.check_integrity()
    old = torch.from_numpy(pool.slots_of(np.concatenate([b.pages for b in pinned.blocks], axis=-1)))[0, 0]
    assert torch.equal(pool.store.keys[0, 0, old], before[0, 0, old])
    pinned.release()
    assert t.share.held == t.pages
    assert header.tokens + core.tokens + newest.tokens == 7 + 12 + 8


def test_keys_turn_when_they_are_gathered_and_only_by_their_own_difference() -> None:
    t = story(EveryOther(), frames=4)
    t.turn(100)
    assert t.shrink(7)
    core = t.blocks[1]
    assert (core.turn, core.low, core.high) == (0, 7 - 100, 7 + 23 - 100)
    t.settle()
    pool = t.share.pool
    slots = pool.slots_of(core.pages)[0, 0, :12]
    stood = t.facts.of(pool.token_ids[0, 0, slots])["position"][:, 0]
    assert pool.store.keys[0, 0, torch.from_numpy(slots), 0, 0].tolist() == stood.tolist()


def test_fewer_survive_where_pins_leave_too_little_room() -> None:
    t = story(EveryOther(), frames=4, pages=12)
    pinned = t.snapshot()
    assert t.share.free == 2
    assert t.shrink(7)
    assert t.blocks[1].tokens == 2 * PAGE
    t.check_integrity()
    pinned.release()
    t.share.pool.check_integrity()


def test_pages_that_nobody_pins_are_used_again_for_the_survivors() -> None:
    t = story(EveryOther(), frames=4, pages=10)
    assert t.share.free == 0
    assert t.shrink(7)
    assert t.blocks[1].tokens == 12
    t.check_integrity()
    ids = t.share.pool.read_ids(t.share.pool.slots_of(t.blocks[1].pages)[:, :, :12])
    values = t.share.pool.store.values[0, 0, torch.from_numpy(t.share.pool.slots_of(t.blocks[1].pages)[0, 0, :12])]
    assert values[:, 0, 0].tolist() == ids[0, 0].tolist()


def test_trunks_are_compacted_together_as_each_would_be_alone() -> None:
    """Trunks of one pool that hold different things, one of them turned, against the same trunks one by one."""
    outcomes = []
    for together in (True, False):
        pool = PagePool(SHAPE, 120, PAGE)
        trunks = [story(EveryOther(), frames=4 + n, share=pool.open(40)) for n in range(3)]
        trunks[1].turn(50)
        if together:
            assert shrink([(t, 7) for t in trunks]) == [True] * 3
        else:
            assert [t.shrink(7) for t in trunks] == [True] * 3
        for t in trunks:
            t.check_integrity()
        pool.check_integrity()
        cores = [pool.slots_of(t.blocks[1].pages)[:, :, : t.blocks[1].tokens] for t in trunks]
        keys = [pool.store.keys[:, :, torch.from_numpy(core[0, 0])] for core in cores]
        outcomes.append([(pool.read_ids(core).tolist(), key.tolist()) for core, key in zip(cores, keys, strict=True)])
    assert outcomes[0] == outcomes[1]


def test_gaps_are_closed_and_keys_left_as_they_are() -> None:
    t = story(frames=6)
    t.shrink(6)
    keys = t.share.pool.store.keys.clone()
    moved = t.close_gaps(coming=55)
    assert moved == 4 * 8
    assert [(b.low - b.turn, b.high - b.turn) for b in t.blocks] == [(0, 6), (7, 14), (15, 22)]
    assert [part.turn for part in t.parts()] == [0, 32]
    assert torch.equal(keys, t.share.pool.store.keys)
    assert t.close_gaps(coming=23) == 0


def test_a_gap_before_what_is_to_come_is_closed_too() -> None:
    t = story(frames=2)
    while t.drop_oldest():
        pass
    assert grids(t) == [-1]
    assert t.close_gaps(coming=500) == 500 - 7


def test_what_comes_after_a_turn_starts_a_block() -> None:
    t = story(frames=0)
    t.turn(3)
    write(t, text(4, 1, joins=True))
    assert [(b.tokens, b.turn) for b in t.blocks] == [(6, 3), (1, 0)]


@pytest.mark.parametrize("make", [Window, Full])
def test_policies_answer_with_a_place_for_each_block(make: Callable[[], Window | Full]) -> None:
    t = story(frames=3)
    keep = make().keep(Contents(t.blocks, PAGE), pages=100)
    assert keep.whole.tolist() == [True] * 4
    assert keep.survivors == 0
