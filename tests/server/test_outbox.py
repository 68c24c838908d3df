import json

import pytest

from server.routes.outbox import CloseCode, Farewell, Outbox

pytestmark = pytest.mark.unit


async def test_events_in_order_then_the_first_farewell() -> None:
    outbox = Outbox()
    outbox.put({"n": 1})
    outbox.put({"n": "é"})
    outbox.close(CloseCode.SESSION_CLOSED, "over")
    outbox.close(CloseCode.NORMAL, "later")
    outbox.put({"n": 3})
    assert json.loads(str(await outbox.next())) == {"n": 1}
    assert json.loads(str(await outbox.next())) == {"n": "é"}
    assert await outbox.next() == Farewell(CloseCode.SESSION_CLOSED, "over")


async def test_a_client_that_reads_nothing_is_let_go() -> None:
    outbox = Outbox(depth=3)
    for n in range(10):
        outbox.put({"n": n})
    assert outbox.ending
    assert len(outbox) == 0
    farewell = await outbox.next()
    assert isinstance(farewell, Farewell)
    assert farewell.code is CloseCode.SLOW


async def test_large_events_are_bounded_by_their_size() -> None:
    outbox = Outbox()
    for _ in range(200):
        outbox.put({"t": "x" * 60_000})
    assert outbox.ending
    assert len(outbox) == 0
    flowing = Outbox()
    for _ in range(200):
        flowing.put({"t": "x" * 60_000})
        await flowing.next()
    assert not flowing.ending
