"""The relay's readers, and the relay over a bus that is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from protocol.bus import Bus
from protocol.ids import EntryId
from protocol.messages import AnswerDelta
from protocol.outputs import Event
from server.relay import Relay, Relayed, SlowReader, Subscription

pytestmark = pytest.mark.unit


def output(n: int) -> AnswerDelta:
    return AnswerDelta(question_id="q", index=n, token_ids=[n], text=str(n))


def relayed(n: int, session: str = "s") -> Relayed:
    return Relayed(session, EntryId(1, n), output(n))


async def heard(subscription: Subscription) -> list[int]:
    return [cast(AnswerDelta, cast(Relayed, await subscription.next()).output).index for _ in range(len(subscription))]


async def test_older_outputs_come_first_and_none_twice() -> None:
    subscription = Subscription(EntryId(1, 2))
    subscription.push(relayed(5))
    subscription.push(relayed(6))
    subscription.replayed([relayed(2), relayed(3), relayed(4), relayed(5)])
    subscription.push(relayed(6))
    subscription.push(relayed(7))
    assert await heard(subscription) == [3, 4, 5, 6, 7]


async def test_a_reader_that_is_too_slow_hears_what_it_had_and_then_why() -> None:
    subscription = Subscription(EntryId(0, 0), depth=3)
    subscription.replayed([])
    for n in range(10):
        subscription.push(relayed(n))
    assert await heard(subscription) == [0, 1, 2]
    with pytest.raises(SlowReader):
        await subscription.next()


async def test_a_finished_reader_hears_the_rest() -> None:
    subscription = Subscription(EntryId(0, 0))
    subscription.replayed([relayed(1)])
    subscription.finish()
    assert await subscription.next() == relayed(1)
    assert await subscription.next() is None


class ListBus:
    """Streams as lists; reading waits for ``wake`` where there is nothing new."""

    def __init__(self) -> None:
        self.streams: dict[str, list[Event]] = {}
        self.reads: list[set[str]] = []
        self._changed = asyncio.Event()
        self.outputs = self

    def follow_outputs(self, reader_id: str) -> ListBus:
        return self

    def say(self, session: str, n: int) -> None:
        self.streams.setdefault(session, []).append(Event(session, EntryId(1, n), output(n)))
        self._changed.set()

    async def newest(self, session: str) -> EntryId:
        stream = self.streams.get(session)
        return stream[-1].id if stream else EntryId(0, 0)

    async def since(self, session: str, after: EntryId, count: int) -> list[Event]:
        return [event for event in self.streams.get(session, []) if event.id > after][:count]

    async def read(self, positions: Mapping[str, EntryId]) -> list[Event]:
        self.reads.append(set(positions))
        found = [e for name, last in positions.items() for e in self.streams.get(name, []) if e.id > last]
        if not found:
            self._changed.clear()
            await self._changed.wait()
        return found

    async def wake(self) -> None:
        self._changed.set()

    async def aclose(self) -> None:
        pass


async def test_one_read_serves_all_sessions_and_each_reader_gets_its_own() -> None:
    bus = ListBus()
    bus.say("a", 1)
    relay = Relay(cast(Bus, cast(Any, bus)), "g")
    observed: list[Relayed] = []
    running = asyncio.create_task(relay.run(observed.append))
    async with (
        relay.subscribe("a") as from_now,
        relay.subscribe("a", EntryId(0, 0)) as from_start,
        relay.subscribe("b") as other,
    ):
        bus.say("a", 2)
        bus.say("b", 1)
        assert await from_now.next() == relayed(2, "a")
        assert await other.next() == relayed(1, "b")
        assert await from_start.next() == relayed(1, "a")
        assert await from_start.next() == relayed(2, "a")
        assert {"a", "b"} in bus.reads
        assert relay.sessions() == ["a", "b"]
    assert relay.sessions() == []
    assert sorted(str(seen.id) + seen.session_id for seen in observed) == ["1-1b", "1-2a"]
    running.cancel()
    await asyncio.wait([running])


async def test_a_session_is_followed_while_anybody_holds_it() -> None:
    relay = Relay(cast(Bus, cast(Any, ListBus())), "g")
    await relay.hold("a")
    async with relay.subscribe("a"):
        relay.release("a")
        assert relay.sessions() == ["a"]
    assert relay.sessions() == []


async def test_what_the_gateway_says_itself_reaches_the_readers() -> None:
    relay = Relay(cast(Bus, cast(Any, ListBus())), "g")
    async with relay.subscribe("a") as reader:
        relay.say("a", output(9))
        assert await reader.next() == Relayed("a", None, output(9))
        relay.finish()
        assert await reader.next() is None
