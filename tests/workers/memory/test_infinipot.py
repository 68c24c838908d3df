"""Policy `infinipot`: who survives, in which generations, and what it fits into."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.core import Kind, KVShape
from workers.memory.chain import Piece
from workers.memory.facts import Facts
from workers.memory.infinipot import CORE, GENERATIONS, WINDOW, InfiniPot, rank
from workers.memory.policy import Candidates, Contents
from workers.memory.pool import PagePool
from workers.memory.trunk import Trunk, shrink

pytestmark = pytest.mark.unit

PAGE, DIM, FRAME = 4, 8, 8
SHAPE = KVShape(layers=2, groups=2, heads=1, head_dim=DIM)
PAGES = 40


def unturned(vectors: Tensor, by: Tensor) -> Tensor:
    """As if keys were not rotated at all."""
    return vectors


class Story:
    """A trunk with random keys and values, and its pool."""

    def __init__(self, pages: int = 60, pool: PagePool | None = None, seed: int = 0) -> None:
        self.pool = pool or PagePool(SHAPE, pages, PAGE)
        self.trunk = Trunk(self.pool.open(pages), Facts(), InfiniPot(), unturned)
        self.chance = torch.Generator().manual_seed(seed)
        self.grids = self.at = 0
        self.write(Kind.SYSTEM, 6)

    def write(self, kind: Kind, count: int, *, grid: int = -1, patches: list[int] | None = None) -> None:
        line = np.tile(np.arange(self.at, self.at + count), (3, 1))
        some = None if patches is None else np.array(patches)
        piece = Piece(kind, line, self.grids * 1000, grid, patches=some)
        draft = self.trunk.draft([piece])
        self.trunk.commit(draft)
        self.at += count
        for plane in np.ndindex(2, 2):
            slots = torch.from_numpy(draft.slots[0, 0])
            self.pool.store.keys[plane][slots] = torch.randn(count, 1, DIM, generator=self.chance)
            self.pool.store.values[plane][slots] = torch.randn(count, 1, DIM, generator=self.chance)

    def frame(self, *, pages: int = PAGES) -> None:
        """A frame, after room was made for it."""
        assert self.trunk.shrink(pages - FRAME // PAGE)
        self.write(Kind.FRAME, FRAME, grid=self.grids)
        self.grids += 1

    def check(self) -> None:
        self.trunk.check_integrity()
        self.pool.check_integrity()
        self.trunk.share.check_holds([block.pages for block in self.trunk.blocks])

    @property
    def cores(self) -> list[int]:
        return [block.tokens for block in self.trunk.blocks if block.core]

    def grids_of(self, place: int) -> set[int]:
        """Which frames the tokens of a block come from, in any plane."""
        block = self.trunk.blocks[place]
        ids = self.pool.read_ids(self.pool.slots_of(block.pages)[:, :, : block.tokens])
        return set(self.trunk.facts.of(np.unique(ids))["grid"].tolist())


def test_nothing_is_chosen_while_there_is_room() -> None:
    story = Story()
    for _ in range(19):
        story.frame()
    assert story.cores == []
    assert story.trunk.tokens == 6 + 19 * FRAME


def test_it_fits_for_as_long_as_the_stream_goes_on_and_the_newest_frames_stay_whole() -> None:
    story = Story()
    for n in range(300):
        story.frame()
        assert story.trunk.pages <= PAGES
        story.check()
        whole = [block.grid for block in story.trunk.blocks if block.grid >= 0]
        assert whole == list(range(n - len(whole) + 1, n + 1))
        assert sum(story.cores) <= PAGES * CORE * PAGE
        assert len(story.cores) <= GENERATIONS + 1
    assert len(whole) >= (PAGES - 2) * WINDOW * PAGE // FRAME
    assert len(story.trunk.facts) <= story.trunk.tokens * 4


def test_generations_stand_in_order_and_the_past_fades_the_older_it_is() -> None:
    story = Story()
    while story.grids < 100 or len(story.cores) < 2:
        story.frame()
    story.trunk.settle()
    places = [place for place, block in enumerate(story.trunk.blocks) if block.core]
    spans = [story.grids_of(place) for place in places]
    assert len(spans) > 1
    assert all(max(older) < min(newer) for older, newer in pairwise(spans))
    density = [len(span) / (max(span) - min(span) + 1) for span in spans]
    assert min(spans[0]) < 60
    assert density[0] < density[-1]


def test_a_core_changes_no_more_once_there_is_a_newer_one() -> None:
    """Until it is thinned out together with its neighbour; its pages are never written again."""
    story = Story()
    for _ in range(80):
        before = {id(block): block for block in story.trunk.blocks if block.core}
        kept = [block.pages.copy() for block in before.values()]
        keys = [story.pool.store.keys[0, 0, story.pool.slots_of(pages)[0, 0]].clone() for pages in kept]
        story.frame()
        for block, pages, key in zip(before.values(), kept, keys, strict=True):
            if any(block is other for other in story.trunk.blocks):
                assert torch.equal(story.pool.store.keys[0, 0, story.pool.slots_of(pages)[0, 0]], key)


def test_remembered_texts_outlive_their_frames_and_marks_do_not() -> None:
    story = Story()
    for n in range(100):
        if n == 20:
            story.write(Kind.TEXT, 7)
        if n % 10 == 0:
            story.trunk.shrink(PAGES - 1)
            story.write(Kind.TEXT, 2)
        story.frame()
    texts = [block.tokens for block in story.trunk.blocks if block.kind == Kind.TEXT]
    assert texts[0] == 7
    assert len(texts) <= 4


def test_each_plane_keeps_its_own_tokens() -> None:
    story = Story()
    for _ in range(60):
        story.frame()
    story.trunk.settle()
    (core, *_) = [block for block in story.trunk.blocks if block.core]
    ids = story.pool.read_ids(story.pool.slots_of(core.pages)[:, :, : core.tokens])
    planes = {tuple(ids[plane]) for plane in np.ndindex(2, 2)}
    assert len(planes) == 4
    assert all(list(plane) == sorted(plane) for plane in planes)


def test_many_trunks_are_compacted_together_as_each_would_be_alone() -> None:
    ids = []
    for together in (True, False):
        pool = PagePool(SHAPE, 240, PAGE)
        stories = [Story(60, pool, seed) for seed in range(4)]
        for seed, story in enumerate(stories):
            for grid in range(14 + seed):
                story.write(Kind.FRAME, FRAME, grid=grid)
        demands = [(story.trunk, 24) for story in stories]
        assert shrink(demands) == [True] * 4 if together else all(shrink([demand])[0] for demand in demands)
        for story in stories:
            story.check()
        cores = [block for story in stories for block in story.trunk.blocks if block.core]
        ids.append([pool.read_ids(pool.slots_of(core.pages)[:, :, : core.tokens]).tolist() for core in cores])
    assert ids[0] == ids[1]
    assert len(ids[0]) >= 4


def candidates(keys: Tensor, values: Tensor, patches: list[int], recent: Tensor, counts: tuple[int, ...]) -> Candidates:
    """One trunk, one plane, one head; the newest frame has patches 0, 1, ..."""
    n, m = len(keys), len(recent)
    return Candidates(
        keys=keys.view(1, 1, n, 1, -1),
        values=values.view(1, 1, n, 1, -1),
        patches=torch.tensor(patches).view(1, 1, n),
        trunk=torch.zeros(n, dtype=torch.int64),
        sizes=(n,),
        counts=counts,
        recent_keys=recent.view(1, 1, m, 1, -1),
        recent_patches=torch.arange(m),
        recent_trunk=torch.zeros(m, dtype=torch.int64),
        places=max(*patches, m) + 1,
    )


def best(scores: Tensor, count: int) -> list[int]:
    return sorted(scores[0, 0].topk(count).indices.tolist())


def test_half_survive_for_being_unlike_the_newest_frames_at_their_place_half_for_their_values() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    recent = torch.stack([east, north])
    keys = torch.stack([east, north, north, east, 3 * east, 3 * north])
    patches = [0, 0, 1, 1, 0, 1]  # tokens 1 and 3 are unlike what the newest frame has at their place
    values = torch.tensor([1.0, 1.0, 9.0, 1.0, 5.0, 2.0]).view(-1, 1).expand(-1, 2)
    assert best(rank(candidates(keys, values, patches, recent, (4,))), 4) == [1, 2, 3, 4]
    assert best(rank(candidates(keys, values, patches, recent, (2,))), 2) in ([1, 2], [2, 3])


def test_what_the_newest_frames_do_not_show_is_new() -> None:
    east = torch.tensor([1.0, 0.0])
    scores = rank(candidates(east.repeat(3, 1), torch.ones(3, 2), [0, 5, 0], east.view(1, 2), (2,)))
    assert 1 in best(scores, 1)


def test_text_never_survives_as_a_token_of_a_frame() -> None:
    chance = torch.Generator().manual_seed(1)
    keys, values = torch.randn(6, 2, generator=chance), torch.randn(6, 2, generator=chance)
    values[0] *= 100
    scores = rank(candidates(keys, values, [-1, 0, 1, 2, -1, 3], torch.randn(4, 2, generator=chance), (4,)))
    assert best(scores, 4) == [1, 2, 3, 5]


@pytest.mark.parametrize("pages", range(4, 40))
def test_whatever_the_size_it_comes_to_fit_or_says_so(pages: int) -> None:
    story = Story()
    for grid in range(24):
        story.write(Kind.FRAME, FRAME, grid=grid)
    if story.trunk.shrink(pages):
        assert story.trunk.pages <= pages
    else:
        assert pages < 2 + 2 + 2
    story.check()


def test_its_plan_hangs_on_counts_alone() -> None:
    story = Story()
    for grid in range(18):
        story.write(Kind.FRAME, FRAME, grid=grid)
    keep = InfiniPot().keep(Contents(story.trunk.blocks, PAGE), 30)
    assert keep.survivors % PAGE == 0
    assert keep.whole[0]
    assert keep.whole[-1]
    assert not keep.whole[1]
