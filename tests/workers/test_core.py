"""A part's slots as runs, and tables of several."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from workers.core import Part, joined, of_plane

pytestmark = pytest.mark.unit


PLANES = [
    [[12, 13, 14, 15, 16, 17, 36], [12, 13, 14, 15, 16, 17, 36]],
    [[3, 2, 1, 0, 9, 10, 11], [7, 8, 5, 6, 1, 2, 3]],
]


@pytest.mark.parametrize("alike", [True, False])
def test_runs_name_the_slots_in_order_and_are_as_few_as_they_form(alike: bool) -> None:
    slots = np.array(PLANES, np.int32)
    part = Part(slots[:1, :1] if alike else slots)
    assert part.tokens == 7
    for layer, group in np.ndindex(2, 2):
        runs = part.runs(layer, group)
        listed = [slot for run in runs for slot in range(*run)]
        expected = PLANES[0][0] if alike else PLANES[layer][group]
        assert listed == of_plane(part.slots, layer, group).tolist() == expected
        assert all(before.stop != after.start for before, after in pairwise(runs))


def test_tables_that_are_joined_keep_their_order_in_every_plane() -> None:
    every, alike = np.array(PLANES, np.int32), np.array([[[40, 41]]], np.int32)
    assert joined([alike, alike]).tolist() == [[[40, 41, 40, 41]]]
    assert joined([]).shape == (1, 1, 0)
    both = joined([alike, every])
    for layer, group in np.ndindex(2, 2):
        assert both[layer, group].tolist() == [40, 41, *PLANES[layer][group]]
