"""A client that never gives up, with a witness beside it: after every loss it comes back, asks what was not heard, and
sends the sound again that was not settled.

It speaks the wire itself rather than through the client library, so that the witness sees all that was sent.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.chaos.invariants import Decode, Witness

JPEG, PCM16 = 1, 4
VIDEO, AUDIO = 0, 1
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
        self.ended: dict[str, int] = {}  # questions with an outcome, and the number of the connection that brought it
        self.accepted: set[str] = set()  # questions of which the server said so
        self.closed = ""  # why the session was closed, once it is
        self.refused: dict[int, str] = {}  # sequence of a piece of sound -> why the server said that it did not take it
        self._gateways = list(gateways)
        self._key = key
        self.session_id = session_id
        self._token = ""
        self._last_event = "0-0"
        self._sequences = {VIDEO: 0, AUDIO: 0}
        self._unsettled: deque[tuple[int, bytes]] = deque()  # sound that is not known to be in its lane
        self._unheard: dict[str, dict[str, Any]] = {}  # questions that were not accepted yet
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Connects, and connects again, until the session is closed or this is cancelled."""
        while not self.closed:
            for gateway in self._gateways:
                with suppress(OSError, TimeoutError, ConnectionClosed, InvalidHandshake, httpx.HTTPError):
                    await self._live(gateway)
                self._socket = None
                await asyncio.sleep(PAUSE_S)

    async def picture(self, jpeg: bytes, capture_s: float) -> bool:
        """Sends a picture if there is a connection; a live session's pictures may be lost with one."""
        return await self._send(self._chunk(JPEG, VIDEO, jpeg, capture_s)[1])

    async def sound(self, pcm: bytes, capture_s: float) -> int:
        """Sends sound, now or as soon as there is a connection again, and again until it is settled: its sequence."""
        sequence, message = self._chunk(PCM16, AUDIO, pcm, capture_s)
        self._unsettled.append((sequence, message))
        await self._send(message)
        return sequence

    @property
    def unsettled(self) -> int:
        """Pieces of sound that are not known to be in their lane."""
        return len(self._unsettled)

    async def ask_again(self) -> None:
        """Repeats the questions that were not accepted yet, as a person does whom the server told to come back."""
        for request in list(self._unheard.values()):
            await self._send(json.dumps(request))

    async def ask(self, question_id: str, text: str, **options: object) -> None:
        """Asks, now or as soon as there is a connection again."""
        self.witness.asked(question_id)
        request = {"type": "question.create", "id": question_id, "question": text, **options}
        self._unheard[question_id] = request
        await self._send(json.dumps(request))

    async def cancel(self, question_id: str) -> None:
        """Asks for the answer's end; lost with the connection."""
        await self._send(json.dumps({"type": "question.cancel", "id": question_id}))

    async def until_ended(self, question_ids: Sequence[str], *, seconds: float) -> None:
        """Waits for the outcome of these questions. TimeoutError after ``seconds``."""
        await self.until(lambda: self.ended.keys() >= set(question_ids), seconds=seconds)

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
                await self._repeat(socket)
                self.connections += 1
                self._socket = socket
                await self.ask_again()
            case "resume_token":
                self._token = event["token"]
            case "media.ack" if event["track"] == AUDIO:
                while self._unsettled and self._unsettled[0][0] <= event["sequence"]:
                    self._unsettled.popleft()
            case "error" if event.get("track") == AUDIO:
                self.refused[event["sequence"]] = event["error"]["code"]
            case "question.accepted":
                self.accepted.add(event["id"])
            case "session.closed":
                self.closed = event["reason"]
        self.witness.saw(event)
        if event.get("event_id") is not None:
            self._last_event = event["event_id"]
        if event["type"] in ("question.accepted", "answer.started", "answer.done", "answer.failed"):
            self._unheard.pop(event["id"], None)
        if event["type"] in ("answer.done", "answer.failed"):
            self.ended[event["id"]] = self.connections
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _repeat(self, socket: ClientConnection) -> None:
        """Sends the unsettled sound again, and what is added meanwhile, in order."""
        sent = -1
        while waiting := [(sequence, message) for sequence, message in self._unsettled if sequence > sent]:
            for sequence, message in waiting:
                await socket.send(message)
                sent = sequence

    def _chunk(self, codec: int, track: int, payload: bytes, capture_s: float) -> tuple[int, bytes]:
        sequence = self._sequences[track]
        self._sequences[track] += 1
        return sequence, struct.pack("!BBHIq", 1, codec, track, sequence, round(capture_s * 1e6)) + payload

    async def _send(self, message: str | bytes) -> bool:
        socket = self._socket
        if socket is None:
            return False
        with suppress(ConnectionClosed):
            await socket.send(message)
            return True
        return False
