from typing import Any, cast

import pytest

from protocol.clock import ServerClock
from protocol.connection import Connection

pytestmark = pytest.mark.unit


class Server:
    """Says what time it is."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    async def command(self, *parts: object) -> list[bytes]:
        assert parts == ("TIME",)
        return [str(self.seconds).encode(), b"250000"]


async def test_ages_are_by_the_servers_clock_and_run_with_the_monotonic_one() -> None:
    now, server = 7.0, Server(1_000)
    clock = ServerClock(cast(Connection, cast(Any, server)), lambda: now)
    assert clock.age_s(5) == 0.0, "nothing is known yet"
    await clock.sync()
    assert clock.age_s(999_250) == pytest.approx(1.0)
    now = 9.5
    assert clock.age_s(999_250) == pytest.approx(3.5)
    assert clock.age_s(2_000_000) == 0.0, "appended after the last look at the clock"
    assert clock.age_s(0) == 0.0


async def test_a_server_whose_clock_was_set_is_followed() -> None:
    server = Server(1_000)
    clock = ServerClock(cast(Connection, cast(Any, server)), lambda: 0.0)
    await clock.sync()
    server.seconds += 3_600
    await clock.sync()
    assert clock.age_s(4_600_000) == pytest.approx(0.25)
