"""Server-sent events: a session's outputs to a reader that may be slow, may go away, and may come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from protocol.errors import BadRequest
from protocol.ids import EntryId
from protocol.messages import Closed
from server.events import output_event
from server.gateway import Gateway
from server.relay import Relayed, SlowReader, Subscription

HEARTBEAT_S = 15.0


def last_event(text: str | None) -> EntryId | None:
    """The id that a client says it saw last. Raises BadRequest."""
    if not text:
        return None
    try:
        return EntryId.parse(text)
    except ValueError:
        raise BadRequest("not an event id", param="last_event_id") from None


def event_text(event: dict[str, Any]) -> bytes:
    """One event as it goes over the wire; its id is the output's, for Last-Event-ID."""
    stamp = f"id: {event['event_id']}\n" if "event_id" in event else ""
    return f"{stamp}event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


class EventStream(Response):
    """Events of a session's outputs after an id, until one of them ends it, the session closes or the reader goes.

    Args:
        wanted: which outputs are told.
        ends: after which output the stream is complete.
        opening: an event told first.
        over: nothing more will be said; what was said is told.
        place: the tenant's place among its open connections, held meanwhile.
    """

    def __init__(
        self,
        gateway: Gateway,
        session_id: str,
        after: EntryId | None,
        *,
        place: AbstractContextManager[None],
        wanted: Callable[[Relayed], bool] = lambda relayed: True,
        ends: Callable[[Relayed], bool] = lambda relayed: False,
        opening: dict[str, Any] | None = None,
        over: bool = False,
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self._gateway = gateway
        self._session_id = session_id
        self._after = after
        self._place = place
        self._wanted = wanted
        self._ends = ends
        self._opening = opening
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            async with self._gateway.sessions.subscribe(self._session_id, self._after, over=self._over) as outputs:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async with asyncio.TaskGroup() as tasks:
                    ways_out = {
                        tasks.create_task(self._tell(outputs, send)),
                        tasks.create_task(_until_gone(receive)),
                    }
                    _, rest = await asyncio.wait(ways_out, return_when=asyncio.FIRST_COMPLETED)
                    for task in rest:
                        task.cancel()

    async def _tell(self, outputs: Subscription, send: Send) -> None:
        try:
            if self._opening is not None:
                await self._send(send, event_text(self._opening))
            while (piece := await self._next(outputs)) is not None:
                text, last = piece
                if text:
                    await self._send(send, text)
                if last:
                    break
            await self._send(send, b"", more=False)
        except (SlowReader, TimeoutError):
            self._gateway.metrics.slow_readers.inc()

    async def _next(self, outputs: Subscription) -> tuple[bytes, bool] | None:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                relayed = await outputs.next()
        except TimeoutError:
            return b": nothing new\n\n", False
        if relayed is None:
            return None
        event = output_event(relayed) if self._wanted(relayed) else None
        last = self._ends(relayed) or isinstance(relayed.output, Closed)
        return b"" if event is None else event_text(event), last

    async def _send(self, send: Send, piece: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._gateway.settings.limits.send_s):
            await send({"type": "http.response.body", "body": piece, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
