"""Who sends hostile inputs: over a live socket, one input at a time on each track, or by REST as a whole body."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.inputs import CODECS, Input
from launcher.serving import Serving

HEADER = struct.Struct("!BBHIq")  # version, codec, track, sequence, capture time in microseconds
STEP_US = 1_000_000  # far enough for every picture to be sampled at one a second
PATIENCE_S = 30.0  # what takes longer counts as unanswered
RETRY_S = 0.2
BUDGET = 512  # tokens of a session: what the model remembers does not matter here
WORST_KEPT = 25

Queue = asyncio.Queue[Input | None]


@dataclass
class Answers:
    """How each input was answered, and after how many seconds."""

    seconds: list[float] = field(default_factory=list)
    by_form: dict[str, Counter[str]] = field(default_factory=dict)
    worst: list[tuple[float, str]] = field(default_factory=list)

    def note(self, item: Input, answer: str, seconds: float) -> None:
        self.seconds.append(seconds)
        self.by_form.setdefault(item.form, Counter())[answer] += 1
        if len(self.worst) < WORST_KEPT or seconds > self.worst[-1][0]:
            self.worst.append((round(seconds, 3), f"{item.number} {item.way} {item.form} {item.how}: {answer}"))
            self.worst.sort(reverse=True)
            del self.worst[WORST_KEPT:]

    def of_all_forms(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for counted in self.by_form.values():
            total.update(counted)
        return total


class SocketAttacker:
    """One session fed over a socket, which is opened again whenever the server has closed it."""

    def __init__(self, server: Serving, answers: Answers) -> None:
        self._server = server
        self._answers = answers
        self._session_id = ""
        self._socket: ClientConnection | None = None
        self._opened = asyncio.Condition()
        self._waiting: dict[int, tuple[int, asyncio.Future[str]]] = {}  # by the track that the answer will name
        self._sequences: Counter[int] = Counter()

    async def run(self, lanes: list[Queue]) -> None:
        """Work through the lanes, each on a track of its own, until every one has ended with None."""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen())
            async with asyncio.TaskGroup() as sending:
                for track, lane in enumerate(lanes):
                    sending.create_task(self._lane(track, lane))
            listening.cancel()
        await _close(self._server, self._session_id)

    # --- what is sent -------------------------------------------------------------------------------------------------

    async def _lane(self, track: int, lane: Queue) -> None:
        while (item := await lane.get()) is not None:
            socket = await self._open_socket()
            began = time.monotonic()
            answer = await self._attack(socket, track, item)
            self._answers.note(item, answer, time.monotonic() - began)

    async def _open_socket(self) -> ClientConnection:
        async with self._opened:
            while self._socket is None:
                await self._opened.wait()
            return self._socket

    async def _attack(self, socket: ClientConnection, track: int, item: Input) -> str:
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        messages = [self._message(track, item, piece) for piece in item.pieces]
        _, _, stated, last, _ = HEADER.unpack_from(messages[-1])
        self._waiting[stated] = (last, answered)
        try:
            async with asyncio.timeout(PATIENCE_S):
                for message in messages:
                    await socket.send(message)
                return await answered
        except TimeoutError:
            return "unanswered"
        except ConnectionClosed:
            return await answered  # the listener knows why
        finally:
            self._waiting.pop(stated, None)

    def _message(self, track: int, item: Input, piece: bytes) -> bytes:
        sequence = self._sequences[track]
        self._sequences[track] += 1
        message = HEADER.pack(1, CODECS.get(item.form, 0), track, sequence, sequence * STEP_US) + piece
        return item.header + message[len(item.header) :]

    # --- what comes back ----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear()
            except (OSError, InvalidHandshake, httpx.HTTPError):
                self._session_id = ""
                await asyncio.sleep(RETRY_S)

    async def _hear(self) -> None:
        """One connection, from its opening to its end."""
        if not self._session_id:
            self._session_id = await _open(self._server)
        address = f"{self._server.url.replace('http', 'ws')}/v1/live?session={self._session_id}"
        headers = {"authorization": f"Bearer {self._server.key}"}
        async with connect(address, additional_headers=headers, compression=None, max_size=None) as socket:
            async with self._opened:
                self._socket = socket
                self._opened.notify_all()
            try:
                with suppress(ConnectionClosed):
                    async for message in socket:
                        self._take(json.loads(message))
            finally:
                self._socket = None
                self._settle_all(f"closed {socket.close_code}")

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "session.closed":
            self._session_id = ""
        track = event.get("track", -1)
        if track not in self._waiting:
            return
        last, answered = self._waiting[track]
        if event.get("sequence", -1) < last or answered.done():
            return
        if event["type"] == "error":
            answered.set_result(event["error"]["code"])
        elif event["type"] == "media.ack":
            answered.set_result("taken")

    def _settle_all(self, answer: str) -> None:
        for _, answered in self._waiting.values():
            if not answered.done():
                answered.set_result(answer)


class RestAttacker:
    """One session to which whole bodies are posted, one after the other."""

    def __init__(self, server: Serving, answers: Answers) -> None:
        self._server = server
        self._answers = answers

    async def run(self, lane: Queue) -> None:
        session_id = await _open(self._server)
        async with _http(self._server) as http:
            while (item := await lane.get()) is not None:
                began = time.monotonic()
                answer = await self._attack(http, session_id, item)
                self._answers.note(item, answer, time.monotonic() - began)
                if answer in ("session_closed", "not_found"):
                    session_id = await _open(self._server)
        await _close(self._server, session_id)

    async def _attack(self, http: httpx.AsyncClient, session_id: str, item: Input) -> str:
        query = {"wait": "true", "pace": "fast"}
        try:
            reply = await http.post(
                f"/v1/sessions/{session_id}/media",
                params=query,
                content=item.pieces[-1],
                headers={"content-type": item.kind},
            )
        except httpx.TimeoutException:
            return "unanswered"
        except httpx.HTTPError as error:
            return type(error).__name__
        return "taken" if reply.is_success else str(reply.json()["error"]["code"])


def _http(server: Serving) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {server.key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE_S, trust_env=False)


async def _open(server: Serving) -> str:
    async with asyncio.timeout(PATIENCE_S):
        return (await server.client.create_session(wait=PATIENCE_S, budget_tokens=BUDGET)).id


async def _close(server: Serving, session_id: str) -> None:
    if session_id:
        async with _http(server) as http:
            with suppress(httpx.HTTPError):
                await http.delete(f"/v1/sessions/{session_id}")
