import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import Conflict, NotFound, RateLimited
from protocol.sources import SourceSpec, SourceState
from tests.conformance.samples import OTHER, SESSION, until_expired

pytestmark = pytest.mark.conformance


def make_source(name: str = "door", *, created_at: float = 1.0) -> SourceSpec:
    return SourceSpec(name=name, url="rtsp://user:secret@camera/1", track=100, created_at=created_at)


async def test_sources_are_kept_in_the_order_in_which_they_came(bus: Bus) -> None:
    await bus.sources.add(SESSION, make_source("yard", created_at=2.0), 8)
    await bus.sources.add(SESSION, make_source("door", created_at=1.0), 8)
    assert list(await bus.sources.of(SESSION)) == ["door", "yard"]
    assert (await bus.sources.of(SESSION))["door"] == make_source("door", created_at=1.0)
    assert await bus.sources.sessions() == [SESSION]


async def test_a_name_is_used_once(bus: Bus) -> None:
    await bus.sources.add(SESSION, make_source(), 8)
    with pytest.raises(Conflict):
        await bus.sources.add(SESSION, make_source(created_at=2.0), 8)
    assert (await bus.sources.of(SESSION))["door"].created_at == 1.0


async def test_a_session_has_so_many_sources(bus: Bus) -> None:
    await bus.sources.add(SESSION, make_source("a"), 1)
    with pytest.raises(RateLimited):
        await bus.sources.add(SESSION, make_source("b"), 1)
    assert list(await bus.sources.of(SESSION)) == ["a"]


async def test_a_source_is_removed_once(bus: Bus) -> None:
    await bus.sources.add(SESSION, make_source(), 8)
    await bus.sources.remove(SESSION, "door")
    with pytest.raises(NotFound):
        await bus.sources.remove(SESSION, "door")


async def test_one_gateway_pulls_until_it_is_silent(bus: Bus, connection: Connection) -> None:
    assert await bus.sources.hold(SESSION, "g_a")
    assert await bus.sources.hold(SESSION, "g_a")
    assert not await bus.sources.hold(SESSION, "g_b")
    await until_expired(connection, keys.source_holder(SESSION))
    assert await bus.sources.hold(SESSION, "g_b")
    await bus.sources.release(SESSION, "g_a")
    assert not await bus.sources.hold(SESSION, "g_a")
    await bus.sources.release(SESSION, "g_b")
    assert await bus.sources.hold(SESSION, "g_a")


async def test_states_are_told_to_every_gateway(bus: Bus) -> None:
    assert await bus.sources.states(SESSION) == {}
    states = {"door": SourceState(state="waiting", error="the camera is away", reconnects=2)}
    await bus.sources.publish(SESSION, states)
    assert await bus.sources.states(SESSION) == states


async def test_what_is_forgotten_leaves_nothing(bus: Bus, connection: Connection) -> None:
    await bus.sources.add(SESSION, make_source(), 8)
    await bus.sources.add(OTHER, make_source(), 8)
    await bus.sources.publish(SESSION, {"door": SourceState()})
    await bus.sources.forget(SESSION)
    assert await bus.sources.sessions() == [OTHER]
    assert await connection.command("KEYS", f"ll:{{{SESSION}}}:*") == []


def test_an_address_with_its_password_is_not_printed() -> None:
    assert "secret" not in repr(make_source())
