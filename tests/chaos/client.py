"""A client that never gives up, with a witness beside it: after every loss it comes back, and asks what was not heard.

It speaks the wire itself rather than through the client library, so that the witness sees all that was sent.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.chaos.invariants import Decode, Witness

JPEG = 1
PAUSE_S = 0.05
CONNECT_S = 5.0
PING_S = 1.0


class Client:
    """One session's client. ``gateways`` are the addresses (``http://host:port``) that it tries in turn.

    Run ``run`` in a task for as long as it should stay connected.
    """

    def __init__(self, gateways: Sequence[str], key: str, session_id: str, *, decode: Decode | None = None) -> None:
        self.witness = Witness(session_id, decode)
        self.connections = 0
        self.ended: set[str] = set()  # questions with an outcome
        self.accepted: set[str] = set()  # questions of which the server said so
        self._gateways = list(gateways)
        self._key = key
        self.session_id = session_id
        self._token = ""
        self._last_event = "0-0"
        self._sequence = 0
        self._unheard: dict[str, dict[str, Any]] = {}  # questions that were not accepted yet
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        while True:
            for gateway in self._gateways:
                with suppress(OSError, TimeoutError, ConnectionClosed, InvalidHandshake, httpx.HTTPError):
                    await self._live(gateway)
                self._socket = None
                await asyncio.sleep(PAUSE_S)

    async def picture(self, jpeg: bytes, capture_s: float) -> bool:
        """Sends a picture if there is a connection; a live session's pictures may be lost with one."""
        header = struct.pack("!BBHIq", 1, JPEG, 0, self._sequence, round(capture_s * 1e6))
        self._sequence += 1
        return await self._send(header + jpeg)

    async def ask(self, question_id: str, text: str, **options: object) -> None:
        """Asks, now or as soon as there is a connection again."""
        self.witness.asked(question_id)
        request = {"type": "question.create", "id": question_id, "question": text, **options}
        self._unheard[question_id] = request
        await self._send(json.dumps(request))

    async def until_ended(self, question_ids: Sequence[str], *, seconds: float) -> None:
        """Waits for the outcome of these questions. TimeoutError after ``seconds``."""
        await self.until(lambda: self.ended.issuperset(question_ids), seconds=seconds)

    async def until_connected(self, count: int = 1, *, seconds: float = 10.0) -> None:
        """Waits for the ``count``-th connection to be ready. TimeoutError after ``seconds``."""
        await self.until(lambda: self.connections >= count and self._socket is not None, seconds=seconds)

    async def until(self, reached: Callable[[], bool], *, seconds: float) -> None:
        """Waits for events until it is so. TimeoutError after ``seconds``."""
        async with asyncio.timeout(seconds):
            while not reached():
                await self._changed.wait()

    async def _live(self, gateway: str) -> None:
        token = self._token or await self._connect_token(gateway)
        self._token = ""  # good for one use
        address = f"{gateway.replace('http', 'ws', 1)}/v1/live?session={self.session_id}&token={token}"
        address += f"&last_event_id={self._last_event}"
        async with connect(
            address, open_timeout=CONNECT_S, ping_interval=PING_S, ping_timeout=CONNECT_S, close_timeout=0.1
        ) as socket:
            async for message in socket:
                await self._take(json.loads(message), socket)

    async def _connect_token(self, gateway: str) -> str:
        async with httpx.AsyncClient(timeout=CONNECT_S, trust_env=False) as http:
            reply = await http.post(
                f"{gateway}/v1/sessions/{self.session_id}/connect", headers={"authorization": f"Bearer {self._key}"}
            )
        reply.raise_for_status()
        return str(reply.json()["connect_token"])

    async def _take(self, event: dict[str, Any], socket: ClientConnection) -> None:
        match event["type"]:
            case "session.ready":
                self._token = event["resume_token"]
                self.connections += 1
                self._socket = socket
                for request in list(self._unheard.values()):
                    await socket.send(json.dumps(request))
            case "resume_token":
                self._token = event["token"]
            case "question.accepted":
                self.accepted.add(event["id"])
        self.witness.saw(event)
        if event.get("event_id") is not None:
            self._last_event = event["event_id"]
        if event["type"] in ("question.accepted", "answer.started", "answer.done", "answer.failed"):
            self._unheard.pop(event["id"], None)
        if event["type"] in ("answer.done", "answer.failed"):
            self.ended.add(event["id"])
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _send(self, message: str | bytes) -> bool:
        socket = self._socket
        if socket is None:
            return False
        with suppress(ConnectionClosed):
            await socket.send(message)
            return True
        return False
