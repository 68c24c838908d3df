"""A client behind a bad network, a real gateway, and a worker that names colours: what is promised to the client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from protocol.bus import Bus
from protocol.errors import NotFound
from tests.chaos.client import Client
from tests.faults.proxy import FaultProxy
from tests.faults.shaping import Faults
from tests.server.conftest import (
    KEY,
    Served,
    bus,
    gateway,
    journal_settings,
    limits,
    source_settings,
    valkey_url,
    worker,
)
from tests.server.fake_worker import FakeWorker
from tests.server.wire import picture

__all__ = ["bus", "gateway", "journal_settings", "limits", "source_settings", "valkey_url", "worker"]  # fixtures
pytestmark = pytest.mark.e2e

SEED = 20_26
SOUND = bytes(3_200)  # a tenth of a second
WORDS = ["I", "see", "a", "picture", "that", "is"]


@asynccontextmanager
async def connected(gateway: Served, proxy: FaultProxy) -> AsyncIterator[Client]:
    """A client of a new session, behind the proxy, with one picture sent."""
    session = await gateway.open(fps=2)
    client = Client([f"http://127.0.0.1:{proxy.port}"], KEY, str(session["id"]))
    running = asyncio.create_task(client.run())
    try:
        await client.until_connected()
        assert await client.picture(picture("red"), 0.0)
        yield client
    finally:
        running.cancel()
        await asyncio.wait([running])


def address_of(gateway: Served) -> tuple[str, int]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    return host, int(port)


async def until_known(bus: Bus, session_id: str, question_id: str) -> None:
    """Returns once the bus has the question."""
    async with asyncio.timeout(10):
        while True:
            try:
                await bus.outputs.question(session_id, question_id)
            except NotFound:
                await asyncio.sleep(0.01)
            else:
                return


async def test_answers_survive_resets_in_their_middle(gateway: Served, worker: FakeWorker) -> None:
    worker.words = WORDS
    questions = [f"q{number}" for number in range(12)]
    async with FaultProxy(address_of(gateway), seed=SEED) as proxy, connected(gateway, proxy) as client:
        for number, question in enumerate(questions):
            before = client.connections
            await client.ask(question, "What colour is it?")
            if number % 2:
                proxy.reset()
                await client.until_connected(before + 1)
        await client.until_ended(questions, seconds=20)
        assert client.witness.finish() == []
        assert client.connections >= 7
    summary = client.witness.summary()
    assert (summary.done, summary.tokens) == (12, 12 * 7)


async def test_answers_survive_a_slow_wire_that_breaks_at_random(gateway: Served, worker: FakeWorker) -> None:
    worker.words = WORDS
    questions = [f"q{number}" for number in range(20)]
    async with FaultProxy(address_of(gateway), seed=SEED) as proxy, connected(gateway, proxy) as client:
        proxy.upstream = Faults(latency_s=0.02, jitter_s=0.01, bytes_per_s=625_000, reset_rate=0.02)
        proxy.downstream = Faults(latency_s=0.02, jitter_s=0.01, bytes_per_s=625_000, slice_bytes=200, reset_rate=0.02)
        for number, question in enumerate(questions):
            await client.picture(picture("red"), 1.0 + number / 2)
            await client.sound(SOUND, number / 10)
            await client.ask(question, "What colour is it?")
        await client.until_ended(questions, seconds=40)
        await client.until(lambda: client.unsettled == 0, seconds=40)
        assert client.witness.finish() == []
        assert client.refused == {}
        heard = await worker.saw(client.session_id, lambda owned: len(owned.sounds) >= 20)
        assert sum(len(sound.pcm) for sound in heard.sounds) == 20 * len(SOUND)
    summary = client.witness.summary()
    assert summary.done == summary.accepted == 20


async def test_a_question_whose_acceptance_is_lost_is_answered_once(
    gateway: Served, worker: FakeWorker, bus: Bus
) -> None:
    worker.words = WORDS
    async with FaultProxy(address_of(gateway), seed=SEED) as proxy, connected(gateway, proxy) as client:
        proxy.lose_replies(1, mute=True)
        await client.ask("q1", "What colour is it?")
        await until_known(bus, client.session_id, "q1")
        proxy.reset()
        await client.until_ended(["q1"], seconds=20)
        await client.until(lambda: client.accepted == {"q1"}, seconds=20)  # it was asked again
        assert client.witness.finish() == []
    assert client.witness.summary().done == 1


async def test_a_stalled_wire_is_left_and_the_answer_had_on_the_next(gateway: Served, worker: FakeWorker) -> None:
    worker.words = WORDS
    async with FaultProxy(address_of(gateway), seed=SEED) as proxy, connected(gateway, proxy) as client:
        proxy.pause()
        await client.ask("q1", "What colour is it?")
        await proxy.until(lambda traffic: traffic.taken["up"] > 0)
        proxy.reset()
        proxy.resume()
        await client.until_ended(["q1"], seconds=20)
        assert client.witness.finish() == []
