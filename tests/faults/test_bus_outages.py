"""Redis paused, killed with its data on disk, and full: under a gateway and a worker of real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import BusFull
from protocol.messages import Sound
from tests.chaos.client import Client
from tests.chaos.cluster import KEY, Cluster, Member, cluster
from tests.chaos.crowd import picture as photograph
from tests.chaos.play import standin
from tests.conformance.samples import make_picture
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

HEADERS = {"authorization": f"Bearer {KEY}"}
NOTICED_S, RESUMED_S = 1.0, 3.0
ANSWER_S = 30.0


@asynccontextmanager
async def attended(running: Cluster) -> AsyncIterator[tuple[Client, httpx.AsyncClient]]:
    """A client of a session that has seen a picture."""
    async with httpx.AsyncClient(base_url=running.addresses[0], headers=HEADERS, trust_env=False, timeout=30) as http:
        session_id = (await http.post("/v1/sessions", json={})).json()["id"]
        client = Client(running.addresses, KEY, session_id)
        life = asyncio.create_task(client.run())
        await client.until_connected()
        await client.picture(photograph(0), 0.0)
        yield client, http
        life.cancel()
        await asyncio.wait([life])
        assert client.witness.finish() == []


async def answered(client: Client, question_id: str) -> None:
    await client.ask(question_id, "What is there now?", max_tokens=5)
    await client.until_ended([question_id], seconds=ANSWER_S)


async def accepted(client: Client, question_id: str) -> None:
    """Asks again, as the error says, until the question is accepted."""

    async def heard() -> bool:
        if question_id not in client.accepted:
            await client.ask_again()
        return question_id in client.accepted

    await eventually(heard, ANSWER_S)


async def lose(member: Member) -> None:
    """SIGKILL, and no new start."""
    assert member.keeper is not None
    assert member.process is not None
    member.keeper.cancel()
    await asyncio.wait([member.keeper])
    member.process.kill()
    await member.process.wait()


async def until_status(http: httpx.AsyncClient, status: str, seconds: float) -> None:
    async def told() -> bool:
        return bool((await http.get("/readyz")).json()["status"] == status)

    await eventually(told, seconds)


async def test_a_killed_bus_with_its_data_on_disk_costs_neither_socket_nor_sound(tmp_path: Path) -> None:
    """Case 5: told within a second, gone on within three of its return; all sound arrives."""
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=1, worker=cast.worker) as running:
        async with attended(running) as (client, http):
            await answered(client, "before")
            for n in range(10):
                await client.sound(bytes(3200), 0.1 * n)
            await lose(running.bus)
            await until_status(http, "degraded", NOTICED_S)
            for n in range(10, 30):
                await client.sound(bytes(3200), 0.1 * n)
            await client.ask("meanwhile", "What is there now?", max_tokens=5)
            running.keep(running.bus)
            await until_status(http, "ready", RESUMED_S)
            await accepted(client, "meanwhile")
            await client.until_ended(["meanwhile"], seconds=ANSWER_S)
            assert client.connections == 1, "the socket stays open"

            async def all_sound() -> bool:
                reply = await http.get(f"/v1/sessions/{client.session_id}")
                return bool(reply.json()["health"]["audio_ms"] >= 2900)

            await eventually(all_sound, ANSWER_S)
            await answered(client, "after")
        assert client.witness.summary().failed == {}


async def test_a_bus_that_pauses_for_three_seconds_closes_nothing(tmp_path: Path) -> None:
    """Case 23."""
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=1, worker=cast.worker) as running:
        async with attended(running) as (client, _):
            await answered(client, "before")
            connection = Connection(running.bus_url)
            await connection.command("CLIENT", "PAUSE", 3000, "ALL")
            await connection.aclose()
            for n in range(1, 4):
                await client.picture(photograph(n), float(n))
            await client.ask("meanwhile", "What is there now?", max_tokens=5)
            await accepted(client, "meanwhile")
            await client.until_ended(["meanwhile"], seconds=ANSWER_S)
            await answered(client, "after")
            assert (client.connections, client.witness.summary().epochs) == (1, 1)
        assert running.crashes() == []


async def test_a_full_bus_loses_pictures_and_no_question(tmp_path: Path) -> None:
    """Case 7: pictures make room, questions are accepted all along, nothing fails with 500, and it recovers."""
    cast = standin()
    async with cluster(tmp_path, gateways=1, workers=1, worker=cast.worker) as running:
        async with attended(running) as (client, http):
            await answered(client, "before")
            bus, connection = await Bus.connect(running.bus_url), Connection(running.bus_url)
            used = int((await connection.command("INFO", "memory"))["used_memory"])
            await connection.command("CONFIG", "SET", "maxmemory", used + (8 << 20))
            statuses: set[int] = set()
            generation, sequence = await bus.lanes.claim_publisher(client.session_id), 0
            for n in range(8):
                sequence = await filled(bus, client.session_id, generation, sequence)
                await answered(client, f"full-{n}")
                statuses.add((await http.get("/v1/sessions")).status_code)
            assert statuses == {200}
            length = await connection.command("XLEN", keys.lane(client.session_id, "video"))
            assert length < sequence, "pictures made room"
            await connection.command("CONFIG", "SET", "maxmemory", 512 << 20)
            sound = Sound(t_ms=0, track=1, sequence=1, pcm=bytes(3200), arrived_at=time.time())
            await bus.lanes.append(client.session_id, generation, 1, sound, lossless=False)
            await bus.aclose()
            await connection.aclose()
            await answered(client, "after")
            assert (await http.post("/v1/sessions", json={})).status_code == 201
        assert running.crashes() == []


async def filled(bus: Bus, session_id: str, generation: int, sequence: int) -> int:
    """Pictures until the bus takes no more; the last sequence."""
    with suppress(BusFull):
        while True:
            sequence += 1
            await bus.lanes.append(
                session_id, generation, sequence, make_picture(sequence, size=200_000), lossless=False
            )
    return sequence
