"""What a client does with sources, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from server.settings import SourceSettings
from tests.server.conftest import Served
from tests.server.wire import Event, answer, hear, until

# The product's own deadlines, which a loaded machine keeps, and short waits between tries.
PATIENT = SourceSettings(allow=("127.0.0.0/8",), late_s=60.0, retry_s=0.1, retry_most_s=0.4)
IMPATIENT = PATIENT.model_copy(update={"frozen_s": 1.0, "dead_s": 3.0, "slow_s": 0.6})


@asynccontextmanager
async def watched(gateway: Served, **terms: object) -> AsyncIterator[tuple[str, ClientConnection]]:
    """A session and a socket that hears of it."""
    session = await gateway.open(**{"fps": 4.0, **terms})
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        await hear(socket, "session.ready")
        yield session["id"], socket


async def add(gateway: Served, session_id: str, name: str, url: str) -> dict[str, Any]:
    reply = await gateway.http.post(f"/v1/sessions/{session_id}/sources", json={"name": name, "url": url})
    assert reply.status_code == 201, reply.text
    body: dict[str, Any] = reply.json()
    return body


async def source(gateway: Served, session_id: str, name: str) -> dict[str, Any]:
    body: dict[str, Any] = (await gateway.http.get(f"/v1/sessions/{session_id}/sources/{name}")).json()
    return body


async def becomes(socket: ClientConnection, state: str, name: str = "door") -> Event:
    def told(event: Event) -> bool:
        data = event.get("data", {})
        return event.get("code") == "source" and data["source"] == name and data["state"] == state

    return await hear(socket, told, 20.0)


async def sees(socket: ClientConnection, colour: str) -> None:
    """Asks until the newest picture has the colour."""

    async def seen() -> bool:
        return bool((await answer(socket))["text"].strip() == colour)

    await until(seen)
