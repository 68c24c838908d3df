"""The table of what is known of each token."""

from __future__ import annotations

import numpy as np
import pytest

from workers.core import Kind
from workers.memory.facts import SINKS, Facts

pytestmark = pytest.mark.unit


def positions(start: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.tile(np.arange(start, start + count), (3, 1))


def test_rows_are_found_by_id() -> None:
    facts = Facts()
    header = facts.add(Kind.SYSTEM, positions(0, 6), -1)
    frame = facts.add(Kind.FRAME, positions(6, 4), 2000, grid=3)
    rows = facts.of(np.array([[frame, frame + 3], [header, header + SINKS]]))
    assert rows["kind"].tolist() == [[Kind.FRAME, Kind.FRAME], [Kind.SINK, Kind.SYSTEM]]
    assert rows["patch"].tolist() == [[0, 3], [-1, -1]]
    assert rows["grid"].tolist() == [[3, 3], [-1, -1]]
    assert rows["time_ms"].tolist() == [[2000, 2000], [-1, -1]]
    assert rows["position"][0, 1].tolist() == [9, 9, 9]


def test_the_forgotten_are_unknown_and_their_rows_used_again() -> None:
    facts = Facts()
    keep = facts.add(Kind.SYSTEM, positions(0, 5), -1)
    for n in range(500):
        first = facts.add(Kind.FRAME, positions(n, 16), n, grid=n)
        facts.forget(np.arange(first, first + 16))
    assert len(facts) == 5
    assert len(facts._rows) == 256
    assert facts.of(np.array([keep]))["time_ms"].tolist() == [-1]
    with pytest.raises(KeyError, match=f"token {first} "):
        facts.of(np.array([keep, first]))


def test_an_empty_table_knows_nothing() -> None:
    with pytest.raises(KeyError):
        Facts().of(np.array([0]))


def test_moving_changes_where_a_key_stands() -> None:
    facts = Facts()
    first = facts.add(Kind.TEXT, positions(10, 3), 0)
    facts.move(np.array([first, first + 2]), np.array([[6, 6, 6], [17, 18, 19]]))
    assert facts.of(np.arange(first, first + 3))["position"][:, 0].tolist() == [6, 11, 17]
