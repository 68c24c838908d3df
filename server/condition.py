"""How the gateway itself is: whether the bus answers, has room, and whether the gateway is going down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from protocol.bus import Bus
from protocol.errors import LonglookError, NoCapacity
from server.metrics import Metrics

logger = logging.getLogger(__name__)

WATCH_S = 0.25


class Condition:
    """What the routes ask before they begin anything."""

    def __init__(self) -> None:
        self.bus_up = True
        self.crowded = False  # the bus is nearly full: pictures make room, and no session is begun
        self.draining = asyncio.Event()

    def check_open(self) -> None:
        """Raises NoCapacity once the gateway is going down."""
        if self.draining.is_set():
            raise NoCapacity("this gateway is going down", retry_after=1.0)

    def check_room(self) -> None:
        """Raises NoCapacity where no session can be begun."""
        self.check_open()
        if self.crowded:
            raise NoCapacity("the bus is nearly full", retry_after=5.0)


async def watch(bus: Bus, condition: Condition, metrics: Metrics, fed: Callable[[], Iterable[str]]) -> None:
    """Look at the bus four times a second, until cancelled; on a full one the sessions ``fed`` here make room."""
    while True:
        try:
            condition.crowded = await bus.relieve(fed())
            if not condition.bus_up:
                logger.info("the bus answers again")
            condition.bus_up = True
        except LonglookError as error:
            if condition.bus_up:
                logger.warning("the bus does not answer: %s", error.message)
            condition.bus_up = False
        metrics.bus_up.set(condition.bus_up)
        await asyncio.sleep(WATCH_S)
