"""Which patches of a picture are worth keeping."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.perception.changes import BLOCK, ChangeFilter, Reference, Sight, faded, look

pytestmark = pytest.mark.unit

SIDE, LANES = 112, 4
FILTER = ChangeFilter(threshold=6)


def sights(pictures: list[NDArray[np.uint8]], faded: int = 100, lanes: int = LANES, every: int = 0) -> list[Sight]:
    """Of one picture a second; what was kept `faded` pictures ago is not counted on any more."""
    before: Reference | None = None
    seen = []
    for n, picture in enumerate(pictures):
        keep = ChangeFilter(FILTER.threshold, every)
        seen.append(keep.sight(look(picture), lanes, lanes, before, 1000 * n, 1000 * (n - faded)))
        before = seen[-1].reference
    return seen


def grey(level: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.full((side, side, 3), level, np.uint8)


def spotted(level: int, *places: tuple[int, int], by: int = 60) -> NDArray[np.uint8]:
    """Grey, with a block of 8 x 8 pixels raised at each (row, column) in blocks."""
    picture = grey(level)
    for row, column in places:
        picture[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] += np.uint8(by)
    return picture


def test_the_first_picture_is_kept_whole_and_the_same_again_is_not_kept_at_all() -> None:
    first, second = sights([grey(90), grey(90)])
    assert (first.patches, first.tokens) == (None, LANES * LANES)
    assert second.tokens == 0


def test_a_changed_block_keeps_every_patch_that_it_touches() -> None:
    # Patches are 28 pixels: block 0 lies in the first, block 3 (pixels 24 to 31) in the first two.
    assert sights([grey(90), spotted(90, (0, 0))])[1].patches == pytest.approx([0])
    assert sights([grey(90), spotted(90, (3, 3))])[1].patches == pytest.approx([0, 1, 4, 5])


def test_noise_is_no_change() -> None:
    chance = np.random.default_rng(1)
    noisy = [np.clip(chance.normal(120, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8) for _ in range(10)]
    assert [sight.tokens for sight in sights(noisy)[1:]] == [0] * 9


def test_one_colour_alone_is_a_change() -> None:
    red = grey(90)
    red[:BLOCK, :BLOCK, 0] += 7
    assert sights([grey(90), red])[1].tokens == 1


def test_a_slow_drift_is_kept_again_once_it_has_become_a_change() -> None:
    drifting = [grey(90 + n) for n in range(22)]
    assert [n for n, sight in enumerate(sights(drifting)) if sight.tokens] == [0, 7, 14, 21]


def test_what_stands_still_is_kept_again_after_a_while() -> None:
    still = [grey(90)] * 9
    assert [sight.tokens for sight in sights(still, faded=4)] == [16, 0, 0, 0, 16, 0, 0, 0, 16]


def test_one_of_so_many_pictures_is_kept_whole() -> None:
    pictures = [grey(90), grey(90), spotted(90, (0, 0)), *[grey(90)] * 5]
    assert [sight.tokens for sight in sights(pictures, every=3)] == [16, 0, 1, 16, 0, 0, 16, 0]


def test_streams_that_begin_together_are_not_whole_together() -> None:
    for begins, whole in ((0, [0, 4, 8]), (1, [0, 3, 7]), (3, [0, 1, 5])):
        keep, before, found = ChangeFilter(FILTER.threshold, 4, begins), None, []
        for n in range(9):
            sight = keep.sight(look(grey(90)), LANES, LANES, before, 1000 * n)
            found += [n] * (sight.patches is None)
            before = sight.reference
        assert found == whole


def test_only_what_was_kept_is_young_again() -> None:
    pictures = [grey(90), grey(90), spotted(90, (0, 0)), spotted(90, (0, 0)), spotted(90, (0, 0))]
    assert [sight.tokens for sight in sights(pictures, faded=4)] == [16, 0, 1, 0, 15]


def test_what_has_left_the_newest_room_is_faded() -> None:
    written = [(5000, 2), (4000, 3), (3000, 1), (1000, 9)]
    assert [faded(written, room) for room in (1, 2, 4, 5, 6, 15)] == [5000, 4000, 4000, 3000, 1000, -1]


def test_a_picture_of_another_shape_is_kept_whole() -> None:
    first = FILTER.sight(look(grey(90)), 4, 4, None, 0)
    assert FILTER.sight(look(grey(90, 56)), 2, 2, first.reference, 0).tokens == 4


@pytest.mark.parametrize("side", [28, 36, 84, 100, 112, 448])
def test_every_block_belongs_to_the_patches_that_it_touches(side: int) -> None:
    """Held against the pixels themselves, also where blocks and patches do not fit each other or the picture."""
    lanes = max(1, side // 28)
    edge = np.arange(lanes + 1) * side / lanes
    for place in range(0, side, BLOCK):
        picture = grey(90, side)
        picture[place : place + BLOCK, :BLOCK] += np.uint8(60)
        touched = [n for n in range(lanes) if edge[n] < min(place + BLOCK, side) and edge[n + 1] > place]
        (_, sight) = sights([grey(90, side), picture], lanes=lanes)
        rows = range(lanes) if sight.patches is None else sorted({int(patch) // lanes for patch in sight.patches})
        assert list(rows) == touched


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 250), min_size=2, max_size=12), st.integers(0, 6))
def test_whoever_sees_what_was_kept_is_never_off_by_more_than_the_threshold(levels: list[int], place: int) -> None:
    """The picture that the kept patches make up, block by block, against the real one."""
    pictures = [spotted(3, (place, place), by=level) for level in levels]
    for picture, sight in zip(pictures, sights(pictures), strict=True):
        kept = sight.reference.looks.reshape(LANES, LANES, -1, 3)
        true = FILTER.sight(look(picture), LANES, LANES, None, 0).reference.looks.reshape(LANES, LANES, -1, 3)
        assert np.abs(kept - true).max() <= FILTER.threshold


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=30))
def test_a_change_of_more_than_twice_the_threshold_is_always_kept(levels: list[int]) -> None:
    """However the level wandered before, and whatever of it was kept."""
    seen = sights([grey(level) for level in levels])
    for (before, after), sight in zip(pairwise(levels), seen[1:], strict=True):
        assert sight.tokens or abs(after - before) <= 2 * FILTER.threshold
