import asyncio

import pytest

from server.media.inbox import Entry, Inbox

pytestmark = pytest.mark.unit


async def drain(inbox: Inbox[str]) -> list[str]:
    return [await inbox.get() for _ in range(inbox.depth)]


async def test_a_newer_picture_takes_the_place_of_its_tracks_older_one() -> None:
    inbox: Inbox[str] = Inbox(8, 1000)
    inbox.put(Entry("a1", track=1, replaceable=True))
    inbox.put(Entry("sound", track=2))
    inbox.put(Entry("b1", track=3, replaceable=True))
    assert inbox.put(Entry("a2", track=1, replaceable=True)) == "a1"
    assert inbox.replaced == 1
    assert await drain(inbox) == ["sound", "b1", "a2"]


async def test_what_was_pinned_stays() -> None:
    inbox: Inbox[str] = Inbox(8, 1000)
    inbox.put(Entry("asked about", replaceable=True))
    inbox.pin()
    assert inbox.put(Entry("newer", replaceable=True)) is None
    assert inbox.put(Entry("newest", replaceable=True)) == "newer"
    assert await drain(inbox) == ["asked about", "newest"]


@pytest.mark.parametrize(("depth", "max_bytes"), [(2, 1000), (9, 100)])
async def test_a_full_inbox_makes_the_sender_wait(depth: int, max_bytes: int) -> None:
    inbox: Inbox[str] = Inbox(depth, max_bytes)
    inbox.put(Entry("one", size=50))
    inbox.put(Entry("two", size=50))
    waiting = asyncio.create_task(inbox.room(50))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert inbox.depth == 2
    assert await inbox.get() == "one"
    await waiting
    inbox.put(Entry("three", size=50))
    assert await drain(inbox) == ["two", "three"]


async def test_one_entry_larger_than_all_goes_alone() -> None:
    inbox: Inbox[str] = Inbox(8, 100)
    await inbox.room(500)
    inbox.put(Entry("huge", size=500))
    assert await inbox.get() == "huge"


async def test_clearing_frees_those_who_wait() -> None:
    inbox: Inbox[str] = Inbox(1, 100)
    inbox.put(Entry("one"))
    waiting = asyncio.create_task(inbox.room(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert inbox.clear() == ["one"]
    await asyncio.wait_for(waiting, 5)
