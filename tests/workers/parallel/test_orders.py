"""Orders on the wire, and the names by which they speak of what both ends have."""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Any

import numpy as np
import pytest

from workers.engine.settings import EngineSettings
from workers.parallel.links import Link, Links, RankLost
from workers.parallel.names import Names
from workers.parallel.orders import Array, Begin, Broken, Clear, Encoded, Keys, Pass, Row

pytestmark = pytest.mark.unit


class Thing:
    """Something that can be named."""


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int32).reshape(1, 3, 4),
        np.zeros((1, 1, 0), dtype=np.int64),
        np.array([True, False]),
        np.arange(10)[::2],
    ],
)
def test_arrays_come_back_as_they_were_and_can_be_written(array: np.ndarray[Any, Any]) -> None:
    back = Array.of(array).array()
    assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
    assert back.flags.writeable


def test_a_link_brings_orders_in_pieces_of_any_size() -> None:
    slots = Array.of(np.arange(100_000))
    row = Row(slots, slots, slots, [3], True, False, -1, None)
    keys = Keys(3, slots, 5, False)
    orders = [
        Begin(settings=EngineSettings(pool_tokens=64)),
        Pass(rows=[row], parts=[keys], gone=[1], faded=[]),
        Clear(slots=Array.of(np.arange(3))),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        links = Links([ours])
        received = Link(theirs).orders()
        sender = threading.Thread(target=lambda: deque(map(links.send, orders)))
        sender.start()
        assert [next(received) for _ in orders] == orders
        sender.join()


def test_a_rank_that_breaks_is_heard() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        links = Links([ours])
        with theirs:
            Link(theirs).report(Encoded([None]))
            Link(theirs).report(Broken("no memory"))
        assert links.encoded() == [Encoded([None])]
        assert links.last_words(1) == "rank 1: no memory"
        with pytest.raises(RankLost, match="rank 1"):
            links.send(Clear(slots=Array.of(np.arange(3))))


def test_a_name_ends_with_its_thing() -> None:
    names: Names[Thing] = Names()
    first, second = Thing(), Thing()
    for thing in (first, second):
        assert names.find(thing) is None
        names.give(thing, names.reserve())
    assert (names.find(first), names.find(second)) == (0, 1)
    del first
    assert (names.gone(), names.gone(), len(names)) == ([0], [], 1)
