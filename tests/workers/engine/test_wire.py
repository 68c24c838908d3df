"""Framing and the pixel ring."""

from __future__ import annotations

import numpy as np
import pytest

from workers.engine.messages import CloseSession, Command, Shutdown
from workers.engine.ring import PixelRing
from workers.engine.wire import MESSAGE_LIMIT, WireError, command_unpacker, pack

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_survive_any_cut(size: int) -> None:
    sent: list[Command] = [*(CloseSession(session_id="a" * n) for n in (0, 1, 300)), Shutdown()]
    stream = b"".join(map(pack, sent))
    unpacker = command_unpacker()
    received = [m for start in range(0, len(stream), size) for m in unpacker.feed(stream[start : start + size])]
    assert received == sent


def test_nonsense_is_an_error_that_says_so() -> None:
    with pytest.raises(WireError, match="exceeds the limit"):
        list(command_unpacker().feed((MESSAGE_LIMIT + 1).to_bytes(4, "big")))
    with pytest.raises(WireError, match="cannot be read"):
        list(command_unpacker().feed(b"\0\0\0\1x"))


def test_both_ends_of_the_ring_see_the_same_pixels() -> None:
    ours = PixelRing.create(slots=3, slot_bytes=600)
    theirs = PixelRing(ours.fd, 3, 600)
    ours.pixels(2, 10, 20)[:] = 7
    ours.pixels(1, 1, 1)[:] = 9
    assert (theirs.pixels(2, 10, 20) == 7).all()
    assert theirs.pixels(1, 1, 1).tolist() == [[[9, 9, 9]]]
    assert not np.any(theirs.pixels(0, 10, 20))
    for slot, height, width in ((3, 1, 1), (-1, 1, 1), (0, 0, 5), (0, 10, 21)):
        with pytest.raises(ValueError, match="slot"):
            theirs.pixels(slot, height, width)
    ours.close()
