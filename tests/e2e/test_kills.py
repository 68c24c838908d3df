"""Parts of a cluster of real processes are killed, stopped and asked to end, at moments drawn from a seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from protocol.bus import Bus
from protocol.errors import LeaseLost
from protocol.messages import Notice
from protocol.retention import Retention
from tests.chaos.audience import HEADERS, audience, owner
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, Member, cluster
from tests.chaos.play import Cast, real, standin
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

SEED = 20_26
ROUNDS, AT_ONCE = 4, 5
CLIENTS = 20
TAKEOVER_S = Retention().lease_ms / 1000 + 2.0
RESUME_S = 3.0
ANSWER_S = 60.0


@pytest.fixture(scope="module")
def babble(tmp_path_factory: pytest.TempPathFactory) -> Cast:
    """Workers with the real engine, whose model talks for as long as it may."""
    return real(tmp_path_factory.mktemp("babbler"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def babbling(babble: Cast, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One worker more than are lost at once; what is killed stays so."""
    folder = tmp_path_factory.mktemp("cluster")
    async with cluster(folder, gateways=1, workers=AT_ONCE + 1, worker=babble.worker, restarts=False) as running:
        yield running


async def speaking(client: Client, question_id: str, tokens: int, *, length: int, seed: int) -> None:
    """Asks, and returns once so many tokens of the answer have come."""
    await client.ask(question_id, "What is there now?", temperature=0.7, seed=seed, max_tokens=length)
    await client.until(lambda: client.witness.said(question_id) >= tokens, seconds=ANSWER_S)
    assert client.witness.said(question_id) < length, "the answer was over too soon"


async def lose(running: Cluster, client: Client, tokens: int, *, length: int, by: Callable[[Member], None]) -> Member:
    """Loses the owner of a session after so many tokens of an answer: another one speaks on in time, to its end."""
    worker = await owner(running, client)
    await speaking(client, "q", tokens, length=length, seed=tokens)
    by(worker)
    await client.until(lambda: client.witness.summary().epochs == 2, seconds=TAKEOVER_S)
    await client.until_ended(["q"], seconds=ANSWER_S)
    summary = client.witness.summary()
    assert (summary.done, summary.tokens) == (1, length), f"lost after {tokens} tokens"
    return worker


async def test_a_worker_killed_at_any_of_twenty_moments_costs_no_token(babble: Cast, babbling: Cluster) -> None:
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        await staffed(babbling)
        async with audience(babbling, babble, AT_ONCE) as clients, asyncio.TaskGroup() as group:
            for client in clients:
                moment = 3 + chance.randrange(120)
                group.create_task(lose(babbling, client, moment, length=240, by=lambda worker: kill(babbling, worker)))
        assert len([member for member in babbling.workers if member.pid is None]) == AT_ONCE


@pytest.mark.parametrize("seed", [SEED, *(pytest.param(SEED + n, marks=pytest.mark.long) for n in range(1, ROUNDS))])
async def test_workers_stopped_for_longer_than_their_lease_are_not_heard_any_more(
    babble: Cast, babbling: Cluster, seed: int
) -> None:
    """Five moments; all twenty with ``pytest -m "long or not long"``."""
    chance = random.Random(seed)
    await staffed(babbling)
    before = [member.pid for member in babbling.workers]
    bus = await Bus.connect(babbling.bus_url)
    async with audience(babbling, babble, AT_ONCE) as clients:
        async with asyncio.TaskGroup() as group:

            def stop(worker: Member) -> None:
                group.create_task(babbling.stop_for(worker, TAKEOVER_S + 3.0))

            tasks = [
                group.create_task(lose(babbling, client, 3 + chance.randrange(60), length=400, by=stop))
                for client in clients
            ]

        for client in clients:
            await speak_late(bus, client.session_id)
        for client, task in zip(clients, tasks, strict=True):
            await client.ask("q2", "And now?", max_tokens=8)
            await client.until_ended(["q2"], seconds=ANSWER_S)
            assert client.witness.summary().done == client.witness.summary().epochs == 2
            assert await owner(babbling, client) is not task.result()
    assert [member.pid for member in babbling.workers] == before, "the workers that were stopped go on"
    await bus.aclose()


async def speak_late(bus: Bus, session_id: str) -> None:
    """Says what the owner of before would say if it had not looked at its lease first: that is refused, and counted."""
    record = await bus.sessions.get(session_id)
    late = Notice(code="late", message="from an owner of before")
    with pytest.raises(LeaseLost):
        await bus.outputs.append(session_id, record.epoch - 1, [(100_000, late)])
    assert (await bus.sessions.get(session_id)).fenced > record.fenced


async def staffed(running: Cluster) -> None:
    """Starts what was killed, and waits until all are ready."""
    for member in running.workers:
        if member.pid is None:
            running.keep(member)
    await running.until_ready()


def kill(running: Cluster, worker: Member) -> None:
    assert running.kill(worker), f"two sessions on {worker.name}"


async def test_gateways_that_die_and_go_lose_no_question(tmp_path: Path) -> None:
    cast = standin()
    async with cluster(tmp_path, gateways=2, workers=2, worker=cast.worker) as running:
        async with audience(running, cast, CLIENTS) as clients:
            for client in clients:
                await client.ask("long", "What is there now?", max_tokens=60)
                await client.ask("late", "And then?", max_tokens=5)
            for client in clients:
                await client.until(lambda client=client: client.accepted == {"long", "late"}, seconds=ANSWER_S)  # type: ignore[misc]
            assert running.kill(running.gateways[0])
            async with asyncio.timeout(RESUME_S):
                for client in clients:
                    await client.until_connected(2, seconds=RESUME_S)
            for client in clients:
                await client.until_ended(["long", "late"], seconds=ANSWER_S)
                assert (client.witness.summary().done, client.closed) == (2, "")
            await running.until_ready()
            for client in clients:
                await client.ask("last", "What is there in the end?", max_tokens=60)
            for client in clients:
                await client.until(lambda client=client: client.witness.said("last") > 0, seconds=ANSWER_S)  # type: ignore[misc]
            assert await running.end(running.gateways[1]) == 0
            assert [client.witness.said("last") for client in clients] == [60] * CLIENTS
            assert {client.ended["last"] for client in clients} == {2}, "answers end where they began"
            running.keep(running.gateways[1])
            for client in clients:
                await client.until_connected(3)
        assert running.crashes() == []


async def test_four_workers_hold_four_times_as_much_and_one_that_dies_moves_its_own_alone(tmp_path: Path) -> None:
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=4, worker=cast.worker, restarts=False) as running:
        bus = await Bus.connect(running.bus_url)
        card = (await bus.placement.workers())[0].card
        each = card.capacity_tokens // card.model.default_budget_tokens
        async with httpx.AsyncClient(base_url=running.addresses[0], headers=HEADERS, trust_env=False) as http:
            opened = [(await http.post("/v1/sessions", json={})).json()["id"] for _ in range(4 * each)]
            assert (await http.post("/v1/sessions", json={})).json()["error"]["code"] == "no_capacity"
            full = Counter(worker for worker, _ in (await owners(bus, opened)).values())
            assert full == {member.worker_id: each for member in running.workers}
            for session_id in opened[2 * each :]:
                await http.delete(f"/v1/sessions/{session_id}")
        kept = opened[: 2 * each]

        async def all_owned() -> bool:
            found = (await owners(bus, kept)).values()
            return all(epoch and worker != gone for worker, epoch in found)

        gone = ""
        await eventually(all_owned)
        before = await owners(bus, kept)
        dead = running.workers[0]
        gone, own = dead.worker_id, {name for name, (worker, _) in before.items() if worker == dead.worker_id}
        assert running.kill(dead)
        await eventually(all_owned, ANSWER_S)
        after = await owners(bus, kept)
        assert own
        assert {name for name in kept if after[name] != before[name]} == own
        await bus.aclose()


async def owners(bus: Bus, session_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Worker and epoch of each session."""
    records = [await bus.sessions.get(session_id) for session_id in session_ids]
    return {record.spec.session_id: (record.worker_id, record.epoch) for record in records}
