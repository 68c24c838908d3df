"""Uvicorn's protocols with what they lack: a deadline for a request's head, and a way to drop a client that hangs."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

ABORT = "longlook.abort"  # a socket's ASGI extension whose ``drop`` ends the connection at once


class LiveSocketProtocol(WebSocketsSansIOProtocol):
    """Lets the application drop a connection whose client takes nothing, not even a close frame."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][ABORT] = {"drop": self.transport.abort}


def head_deadline(seconds: float) -> type[H11Protocol]:
    """An HTTP protocol that drops connections which do not complete a request's head within ``seconds``."""

    class HeadDeadline(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            self._arm()
            super().data_received(data)
            if self._head_is_whole():
                self._disarm()

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._disarm()
            super().handle_websocket_upgrade(event)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _head_is_whole(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _arm(self) -> None:
            if self._head_timer is None and not self._head_is_whole():
                self._head_timer = self.loop.call_later(seconds, self.transport.close)

        def _disarm(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return HeadDeadline
