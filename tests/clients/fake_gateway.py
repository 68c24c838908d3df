"""A gateway of the wire contract that answers as each test tells it to: raw ASGI, over a real loopback socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import uvicorn

Message = dict[str, Any]
Reply = tuple[int, Message, dict[str, str]]
KEY = "test-key"


class Peer:
    """One accepted live socket, seen from the gateway's side."""

    def __init__(self, query: dict[str, str], send: Callable[[Message], Awaitable[None]]) -> None:
        self.query = query
        self._send = send
        self.inbox: asyncio.Queue[Message | bytes] = asyncio.Queue()

    async def say(self, type: str, **fields: Any) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps({"type": type, **fields})})

    async def say_raw(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def hang_up(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})

    async def hears(self, kind: str) -> Message:
        """The next JSON message, which must be of this kind."""
        message = await asyncio.wait_for(self.inbox.get(), 5)
        assert isinstance(message, dict), message
        assert message["type"] == kind, message
        return message

    async def hears_chunk(self) -> bytes:
        message = await asyncio.wait_for(self.inbox.get(), 5)
        assert isinstance(message, bytes), message
        return message


class FakeGateway:
    def __init__(self) -> None:
        self.url = ""
        self.ingest = "live"
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.replies: dict[tuple[str, str], list[Reply | list[Message]]] = {}
        self.refusals: list[tuple[int, str]] = []
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.tokens: set[str] = set()
        self.stalled: set[str] = set()
        self.answer: list[Message] = []
        self.asked: list[Message] = []
        self._issued = 0

    def token(self) -> str:
        self._issued += 1
        token = f"token-{self._issued}"
        self.tokens.add(token)
        return token

    async def peer(self) -> Peer:
        """The next client to arrive on the live socket."""
        return await asyncio.wait_for(self.peers.get(), 5)

    def will_reply(self, method: str, path: str, *replies: Reply | list[Message]) -> None:
        """Queues replies for a route; a list of messages is sent as server-sent events. The last one stays."""
        self.replies[method, path] = list(replies)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._live(scope, receive, send)

    async def _http(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.requests.append((scope["method"], scope["path"] + (f"?{query}" if query else ""), headers, body))
        if scope["path"] in self.stalled:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        reply = self._reply(scope["method"], scope["path"], headers)
        if isinstance(reply, list):
            await self._events(reply, send)
            return
        status, content, extra = reply
        fields = {"content-type": "application/json", "x-request-id": "req-1", **extra}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if status == 204 else json.dumps(content).encode()})

    async def _events(self, messages: list[Message], send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        lines = [f"id: 1-{n}\nevent: {m['type']}\ndata: {json.dumps(m)}\n\n" for n, m in enumerate(messages)]
        await send({"type": "http.response.body", "body": (": hello\n\n" + "".join(lines)).encode()})

    def _reply(self, method: str, path: str, headers: dict[str, str]) -> Reply | list[Message]:
        if headers.get("authorization") != f"Bearer {KEY}":
            return failure(401, "unauthorized")
        queued = self.replies.get((method, path))
        if queued:
            return queued.pop(0) if len(queued) > 1 else queued[0]
        if (method, path) == ("POST", "/v1/sessions"):
            return 201, self.session() | {"connect_token": self.token(), "connect_token_expires_in": 60}, {}
        if method == "POST" and path.endswith("/connect"):
            return 200, {"connect_token": self.token(), "connect_token_expires_in": 60}, {}
        if method == "DELETE" or (method == "POST" and path.endswith("/close")):
            return 204, {}, {}
        if method == "GET" and path == "/v1/sessions/s1":
            return 200, self.session() | {"health": HEALTH}, {}
        return failure(404, "not_found")

    def session(self) -> Message:
        settings = {"fps": 1.0, "budget_tokens": 1024, "policy": "window", "instructions": "", "ingest": self.ingest}
        info = {"id": "s1", "object": "session", "model": "mini", "state": "open", "settings": settings, "new": 1}
        return {**info, "metadata": {"camera": "door"}}

    async def _live(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        await receive()
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        status, code = self.refusals.pop(0) if self.refusals else (0, "")
        if not status and query.get("token") not in self.tokens:
            status, code = 401, "token_used"
        if status:
            content = json.dumps(failure(status, code)[1]).encode()
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": content})
            return
        self.tokens.discard(query["token"])
        await send({"type": "websocket.accept"})
        peer = Peer(query, send)
        resume = self.token()
        await peer.say("session.ready", session="s1", resume_token=resume, settings=self.session()["settings"])
        self.peers.put_nowait(peer)
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            heard = json.loads(text) if text is not None else message["bytes"]
            if self.answer and isinstance(heard, dict) and heard["type"] == "question.create":
                await self._answer(peer, heard)
            peer.inbox.put_nowait(heard)

    async def _answer(self, peer: Peer, question: Message) -> None:
        self.asked.append(question)
        await peer.say("question.accepted", id=question["id"])
        for event in self.answer:
            await peer.say(**{**event, "id": question["id"]})


HEALTH: Message = {
    "last_frame_age_ms": 40,
    "session_time_ms": 5000,
    "trunk_time_ms": 4000,
    "lag_ms": 12.5,
    "fps_in": 10,
    "fps_out": 1,
    "frames_in": 50,
    "frames_out": 5,
    "dropped": {"sampler": 2},
    "memory": {"kv_bytes": 10, "kv_budget_bytes": 100, "tokens": 320},
    "audio_ms": 0,
}


def failure(status: int, code: str, **headers: str) -> Reply:
    error = {"type": "error", "code": code, "message": f"this is {code}", "param": None}
    return status, {"error": error}, headers


@asynccontextmanager
async def serve(gateway: FakeGateway) -> AsyncIterator[FakeGateway]:
    listener = socket.create_server(("127.0.0.1", 0))
    gateway.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(gateway, ws="websockets-sansio", log_level="error", lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        try:
            yield gateway
        finally:
            server.should_exit = True
    listener.close()
