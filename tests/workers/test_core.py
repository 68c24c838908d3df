"""A part's slots, as runs and as a table."""

from __future__ import annotations

import numpy as np
import pytest

from workers.core import Part

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("alike", [True, False])
def test_table_and_runs_name_the_same_slots(alike: bool) -> None:
    pages = np.array([[[3, 4, 9, 1], [3, 4, 9, 1]], [[3, 4, 9, 1], [7, 2, 5, 6]]], np.int32)
    part = Part(pages[:1] if alike else pages, np.array([4, 2, 4, 1], np.int32), page_size=4)
    assert part.slots.shape == ((1, 1, part.tokens) if alike else (2, 2, part.tokens))
    for layer, group in np.ndindex(part.pages.shape[:2]):
        listed = [slot for run in part.runs(layer, group) for slot in range(*run)]
        plane = part.slots[layer % len(part.slots), group % part.slots.shape[1]]
        assert plane.tolist() == listed
