"""Clients of new sessions in a cluster, and who serves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from protocol.bus import Bus
from tests.chaos.client import Client
from tests.chaos.cluster import KEY, Cluster, Member
from tests.chaos.crowd import picture
from tests.chaos.play import Cast

HEADERS = {"authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def audience(running: Cluster, cast: Cast, count: int = 1, *, first: int = 0) -> AsyncIterator[list[Client]]:
    """Clients of new sessions, connected to the ``first`` gateway, each with a picture shown.

    In the end nothing was broken for any of them, and their sessions are closed.
    """
    addresses = [*running.addresses[first:], *running.addresses[:first]]
    async with httpx.AsyncClient(base_url=addresses[0], headers=HEADERS, trust_env=False) as http:
        opened = [(await http.post("/v1/sessions", json=cast.terms)).json()["id"] for _ in range(count)]
        clients = [Client(addresses, KEY, session_id, decode=cast.decode) for session_id in opened]
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(client.run()) for client in clients]
            for number, client in enumerate(clients):
                await client.until_connected()
                await client.picture(picture(number), 0.0)
            yield clients
            for life in lives:
                life.cancel()
        for client in clients:
            assert client.witness.finish() == []
            assert (await http.delete(f"/v1/sessions/{client.session_id}")).status_code == 204


async def owner(running: Cluster, client: Client) -> Member:
    """The worker that serves a client's session."""
    bus = await Bus.connect(running.bus_url)
    try:
        return running.worker((await bus.sessions.get(client.session_id)).worker_id)
    finally:
        await bus.aclose()
