import pytest

from protocol.bus import Bus
from protocol.errors import Starting
from server.placement import Board
from tests.server.fake_worker import make_card

pytestmark = pytest.mark.e2e


async def test_a_gateway_that_never_saw_a_worker_serves_the_sessions_that_wait_for_one(bus: Bus) -> None:
    card = make_card()
    await bus.placement.advertise(card, {})
    await bus.placement.retire(card)
    board = Board(bus)
    assert await board.card(card.model.name) == card.model
    with pytest.raises(Starting):
        await board.card("another")
    assert board.models() == [], "new sessions need a worker"
