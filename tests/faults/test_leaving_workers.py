"""Workers that are told to go, restarted one after the other, or whose engine stands still; all real processes."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from protocol.retention import Retention
from tests.chaos.audience import HEADERS, audience, owner
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.play import standin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

HANDED_OVER_S = 2.0
TAKEOVER_S = Retention().lease_ms / 1000 + 2.0
ANSWER_S = 60.0


async def test_a_worker_told_to_go_ends_its_answers_and_hands_its_sessions_over(tmp_path: Path) -> None:
    """Case 10: nothing new is claimed, answers end where they began, the gap is short, exit status 0."""
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=2, worker=cast.worker, restarts=False) as running:
        async with audience(running, cast, 4) as clients:
            for client in clients:
                await client.ask("long", "What is there now?", max_tokens=60)
            for client in clients:
                await client.until(lambda client=client: client.witness.said("long") > 0, seconds=ANSWER_S)  # type: ignore[misc]
            leaving = await owner(running, clients[0])
            assert await running.end(leaving) == 0
            assert all(client.witness.said("long") == 60 for client in clients)
            for client in clients:
                await client.ask("later", "And now?", max_tokens=3)
                await client.until_ended(["long", "later"], seconds=ANSWER_S)
                assert await owner(running, client) is not leaving
            moved = [client for client in clients if client.witness.summary().epochs == 2]
            assert 0 < len(moved) < 4


async def test_a_worker_whose_engine_stands_still_goes_at_its_deadline(tmp_path: Path) -> None:
    """Case 11: the answer that it holds up goes on elsewhere from its last token."""
    cast = standin()
    environment = {"LONGLOOK_DRAIN_S": "1"}
    async with cluster(tmp_path, gateways=1, workers=2, worker=cast.worker, restarts=False) as running:
        for member in running.workers:
            await running.end(member)
            member.environment = {**member.environment, **environment}
            running.keep(member)
        await running.until_ready()
        async with audience(running, cast, 1) as (client,):
            await client.ask("q", "What is there now?", max_tokens=100)
            await client.until(lambda: client.witness.said("q") > 3, seconds=ANSWER_S)
            stuck = await owner(running, client)
            assert stuck.process is not None
            stuck.process.send_signal(signal.SIGUSR2)  # the engine says nothing more
            assert await running.end(stuck) == 0
            await client.until_ended(["q"], seconds=ANSWER_S)
            summary = client.witness.summary()
            assert (summary.done, summary.tokens, summary.epochs) == (1, 100, 2)


async def test_an_engine_that_stands_still_for_longer_than_the_lease_keeps_its_session(tmp_path: Path) -> None:
    """Case 18: leases are renewed beside the engine. Nothing is worked on twice."""
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=2, worker=cast.worker, restarts=False) as running:
        async with audience(running, cast, 1) as (client,):
            await client.ask("q", "What is there now?", max_tokens=100)
            await client.until(lambda: client.witness.said("q") > 3, seconds=ANSWER_S)
            stuck = await owner(running, client)
            assert stuck.process is not None
            stuck.process.send_signal(signal.SIGUSR2)
            await asyncio.sleep(TAKEOVER_S)  # whoever wanted to take the session would have by now
            stuck.process.send_signal(signal.SIGUSR2)  # and goes on
            await client.until_ended(["q"], seconds=ANSWER_S)
            summary = client.witness.summary()
            assert (summary.done, summary.tokens, summary.epochs) == (1, 100, 1)


async def test_all_parts_restarted_one_after_the_other_lose_no_question(tmp_path: Path) -> None:
    """Case 12: two gateways and two workers; REST at a gateway that is ready never fails with a 5xx."""
    cast = standin()
    async with (
        cluster(tmp_path, gateways=2, workers=2, worker=cast.worker) as running,
        audience(running, cast, 6) as clients,
    ):
        statuses: list[int] = []
        asking = asyncio.create_task(keep_asking(running, clients, statuses))
        for member in [*running.workers, *running.gateways]:
            assert await running.end(member) == 0
            running.keep(member)
            await running.until_ready()
        asking.cancel()
        await asyncio.wait([asking])
        for client in clients:
            await client.until_ended(sorted(client.accepted), seconds=ANSWER_S)
            assert client.witness.summary().failed == {}
        assert statuses
        assert max(statuses) < 500
        assert running.crashes() == []


async def keep_asking(running: Cluster, clients: list[Client], statuses: list[int]) -> None:
    """Questions from everybody, and REST requests as a balancer sends them: to gateways that say they are ready."""
    async with httpx.AsyncClient(headers=HEADERS, trust_env=False, timeout=30) as http:
        for number in range(10_000):
            for client in clients:
                await client.ask(f"q{number}", "What is there now?", max_tokens=5)
            for address in running.addresses:
                if await ready(http, address):
                    path = f"{address}/v1/sessions/{clients[0].session_id}"
                    with suppress(httpx.TransportError):  # it went just then; a balancer tries the other one
                        statuses.append((await http.get(path)).status_code)
            await asyncio.sleep(0.5)


async def ready(http: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await http.get(f"{address}/readyz")).status_code == 200
    except httpx.TransportError:
        return False
