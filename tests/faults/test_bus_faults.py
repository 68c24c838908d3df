"""The bus over a bad wire: every write whose reply is lost is sent again, and leaves what it would have left alone."""

import re
from collections.abc import Awaitable, Callable

import pytest

from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import BusUnavailable
from protocol.ids import EntryId
from protocol.leases import Cursor, Lease
from protocol.messages import AnswerDelta, AnswerDone, AnswerStarted, Output, Owned
from tests.conformance.samples import SESSION, make_ask, make_card, make_picture, make_sound, make_spec
from tests.faults.proxy import FaultProxy
from tests.faults.shaping import Faults

pytestmark = pytest.mark.conformance

Step = Callable[[Bus], Awaitable[object]]
OPENED = Owned(worker_id="w_a")
ANSWER: list[tuple[int, Output]] = [
    (1, AnswerStarted(question_id="q1", as_of_ms=0, mode="frozen")),
    (2, AnswerDelta(question_id="q1", index=0, token_ids=[7], text="seven")),
    (3, AnswerDone(question_id="q1", text="seven", finish_reason="stop", as_of_ms=0)),
]
CLOCK = re.compile(rb"1[0-9]{12}(-[0-9]+)?")  # milliseconds of the server's clock, and ids made of them


class Story:
    """A session's life in single writes, so that the reply of each can be lost in turn."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.generation = 0

    def steps(self) -> dict[str, Step]:
        return {
            "advertise": lambda bus: bus.placement.advertise(make_card(), {}),
            "reserve": lambda bus: bus.placement.reserve("mini", SESSION, 1024),
            "open": lambda bus: bus.sessions.open(make_spec(), "w_a"),
            "call": lambda bus: bus.placement.call("w_a", SESSION),
            "acquire": self.acquire,
            "own": lambda bus: bus.outputs.append(SESSION, 1, [(0, OPENED)]),
            "publish": self.publish,
            "picture": lambda bus: bus.lanes.append(SESSION, self.generation, 1, make_picture(1), lossless=False),
            "sound": lambda bus: bus.lanes.append(SESSION, self.generation, 1, make_sound(1), lossless=False),
            "ask": lambda bus: bus.lanes.ask(SESSION, make_ask()),
            "cancel": lambda bus: bus.lanes.cancel(SESSION, "q1"),
            "media_end": lambda bus: bus.lanes.media_end(SESSION, 1000),
            "commit": self.commit,
            "answer": lambda bus: bus.outputs.append(SESSION, 1, ANSWER),
            "close": lambda bus: bus.lanes.close(SESSION),
            "release": self.release,
        }

    async def acquire(self, bus: Bus) -> None:
        self.lease = await bus.leases.acquire(SESSION, "w_a")

    async def publish(self, bus: Bus) -> None:
        self.generation = await bus.lanes.claim_publisher(SESSION)

    async def commit(self, bus: Bus) -> None:
        assert self.lease is not None
        newest = EntryId(self.generation, 1)
        assert await bus.leases.commit([(self.lease, {"video": Cursor(newest, 1)})]) == set()

    async def release(self, bus: Bus) -> None:
        assert self.lease is not None
        await bus.leases.release(self.lease)


STEPS = tuple(Story().steps())
# What may be there twice: a worker called twice looks twice, a publisher that claims twice is its own successor, and to
# cancel or to end the media once more changes nothing.
REPEATABLE = ("call", "publish", "cancel", "media_end")


async def live(bus: Bus, before: Callable[[str], None] = lambda name: None) -> None:
    """Lives the whole story; ``before`` is told each step's name."""
    for name, step in Story().steps().items():
        before(name)
        await step(bus)


async def remains(direct: Connection) -> dict[bytes, bytes]:
    """All that the server holds, with the server's clock taken out."""
    found: dict[bytes, bytes] = {}
    for key in await direct.command("KEYS", "*"):
        kind = await direct.command("TYPE", key)
        read = {
            b"stream": ("XRANGE", key, "-", "+"),
            b"hash": ("HGETALL", key),
            b"zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
            b"string": ("GET", key),
        }[kind]
        if b"log" not in key:
            found[key] = CLOCK.sub(b"<ms>", repr(await direct.command(*read)).encode())
    return found


async def undisturbed(direct: Connection) -> dict[bytes, bytes]:
    bus = await Bus.connect(direct.url)
    await live(bus)
    await bus.aclose()
    left = await remains(direct)
    await direct.command("FLUSHALL")
    return left


@pytest.mark.parametrize("lost", [name for name in STEPS if name not in REPEATABLE])
async def test_a_write_whose_reply_is_lost_happens_once(lost: str, wire: FaultProxy, direct: Connection) -> None:
    expected = await undisturbed(direct)
    async with wire:
        bus = await Bus.connect(f"redis://127.0.0.1:{wire.port}")
        await live(bus, lambda name: wire.lose_replies(int(name == lost)))
        await bus.aclose()
    assert wire.traffic.replies_lost == 1
    assert await remains(direct) == expected


@pytest.mark.parametrize("lost", REPEATABLE)
async def test_what_may_be_there_twice_does_no_harm(lost: str, wire: FaultProxy, direct: Connection) -> None:
    async with wire:
        bus = await Bus.connect(f"redis://127.0.0.1:{wire.port}")
        await live(bus, lambda name: wire.lose_replies(int(name == lost)))
        record = await bus.sessions.get(SESSION)
        question = await bus.outputs.question(SESSION, "q1")
        answered = [event.output for event in await bus.outputs.since(SESSION)]
        await bus.aclose()
    assert wire.traffic.replies_lost == 1
    assert record.publisher == (2 if lost == "publish" else 1)
    assert await direct.command("XLEN", f"ll:{{{SESSION}}}:video") == 1
    assert question.outcome == ANSWER[-1][1]
    assert answered == [OPENED, *(output for _, output in ANSWER)]


async def test_a_slow_and_sliced_wire_changes_nothing(wire: FaultProxy, direct: Connection) -> None:
    expected = await undisturbed(direct)
    wire.upstream = Faults(latency_s=0.005, jitter_s=0.005, slice_bytes=400)
    wire.downstream = Faults(latency_s=0.005, slice_bytes=9)
    async with wire:
        bus = await Bus.connect(f"redis://127.0.0.1:{wire.port}")
        await live(bus)
        await bus.aclose()
    assert await remains(direct) == expected


async def test_a_wire_that_breaks_between_all_writes_changes_nothing(wire: FaultProxy, direct: Connection) -> None:
    expected = await undisturbed(direct)
    async with wire:
        bus = await Bus.connect(f"redis://127.0.0.1:{wire.port}")
        await live(bus, lambda name: wire.reset())
        await bus.aclose()
    assert wire.traffic.resets >= len(STEPS) - 1
    assert await remains(direct) == expected  # the break came between two writes: nothing was sent twice


async def test_a_silent_wire_is_a_typed_error_within_its_limit(wire: FaultProxy, direct: Connection) -> None:
    async with wire:
        connection = Connection(f"redis://127.0.0.1:{wire.port}", timeout=0.05, retries=1)
        await connection.command("PING")
        wire.pause()
        with pytest.raises(BusUnavailable):
            await connection.command("PING")
        wire.resume()
        assert await connection.command("ECHO", "again") == b"again"
        await connection.aclose()


async def test_outputs_are_followed_through_resets_without_loss_or_repetition(
    wire: FaultProxy, direct: Connection
) -> None:
    writer = await Bus.connect(direct.url)
    await writer.sessions.open(make_spec(), "w_a")
    await writer.leases.acquire(SESSION, "w_a")
    async with wire:
        follower = await Bus.connect(f"redis://127.0.0.1:{wire.port}")
        tail = follower.follow_outputs("g_test")
        await tail.wake()
        seen = [EntryId(0, 0)]
        for n in range(40):
            await writer.outputs.append(SESSION, 1, [(n, OPENED)])
            if n % 8 == 3:
                wire.reset()
            seen += [event.id for event in await tail.read({SESSION: seen[-1]})]
        await tail.aclose()
        await follower.aclose()
    await writer.aclose()
    assert wire.traffic.resets >= 5
    assert seen[1:] == [EntryId(1, n) for n in range(40)]
