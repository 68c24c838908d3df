"""The socket under a live session: connects, resumes after a loss, and gives up only when that is final."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from longlook_client._errors import (
    AuthenticationError,
    ConnectError,
    LonglookError,
    NotFoundError,
    ProtocolError,
    SessionClosedError,
    TooLargeError,
    UnavailableError,
    response_error,
)
from longlook_client._events import parse_message
from longlook_client._types import Json
from longlook_client._wire import live_address

CONNECT_TIMEOUT: Final = 10.0
PING_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 8 * 2**20
MAX_QUEUED_MESSAGES: Final = 1024
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 3.0
BEFORE_ALL: Final = "0-0"  # replays everything: what was said during the outage must not be missed

TokenSource = Callable[[], Awaitable[str]]


class Link:
    """Holds the connection of one session. ``on_ready`` gets each fresh socket before others may use it."""

    def __init__(
        self,
        url: str,
        session_id: str,
        *,
        token: str | None,
        new_token: TokenSource,
        reconnect_for: float,
        on_ready: Callable[[ClientConnection], Awaitable[None]],
        on_message: Callable[[Json], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._url = url
        self._session_id = session_id
        self._token = token
        self._new_token = new_token
        self._reconnect_for = reconnect_for
        self._on_ready = on_ready
        self._on_message = on_message
        self._on_lost = on_lost
        self._last_event_id: str | None = None
        self.reconnects = 0

    async def run(self) -> None:
        """Serves connection after connection; raises the :class:`LonglookError` that ended the last one."""
        await self._serve(await self._connect())
        while True:
            self._on_lost()
            self._last_event_id = self._last_event_id or BEFORE_ALL
            socket = await self._reconnect()
            self.reconnects += 1
            await self._serve(socket)

    async def _reconnect(self) -> ClientConnection:
        pause, lost = FIRST_PAUSE, asyncio.get_running_loop().time()
        while True:
            try:
                return await self._connect()
            except (ConnectError, UnavailableError) as error:
                if asyncio.get_running_loop().time() - lost > self._reconnect_for:
                    raise ConnectError(f"the connection did not come back in {self._reconnect_for:.0f} s") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads clients, guards nothing
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> ClientConnection:
        if self._token is not None:
            try:
                return await self._open(self._token)
            except AuthenticationError:
                self._token = None  # a resume token is used up by one try; the key still buys another way in
        return await self._open(await self._new_token())

    async def _open(self, token: str) -> ClientConnection:
        address = live_address(self._url, self._session_id, token, self._last_event_id)
        try:
            return await connect(
                address,
                open_timeout=CONNECT_TIMEOUT,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                close_timeout=1.0,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=MAX_QUEUED_MESSAGES,
                compression=None,
            )
        except InvalidStatus as refused:
            response = refused.response
            error = response_error(response.status_code, response.headers, bytes(response.body or b""))
            if isinstance(error, ProtocolError) and response.status_code >= 500:
                error = ConnectError(f"HTTP {response.status_code} from {self._url}")
            raise error from refused
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise ConnectError(f"cannot reach {self._url}: {error or type(error).__name__}") from error

    async def _serve(self, socket: ClientConnection) -> None:
        """Reads until the connection is lost; raises when the end is final."""
        async with socket:
            try:
                while True:
                    message = parse_message(await socket.recv())
                    if message.get("type") == "session.ready":
                        self._note(message)
                        await self._on_ready(socket)
                    self._deliver(message)
            except ConnectionClosed as closed:
                error = _final_error(closed)
                if error is not None:
                    raise error from closed

    def _deliver(self, message: dict[str, Any]) -> None:
        self._note(message)
        try:
            self._on_message(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"a {message.get('type')} event lacks what the contract promises") from error

    def _note(self, message: dict[str, Any]) -> None:
        field = "token" if message.get("type") == "resume_token" else "resume_token"
        if isinstance(token := message.get(field), str):
            self._token = token
        if isinstance(event_id := message.get("event_id"), str):
            self._last_event_id = event_id


def _final_error(closed: ConnectionClosed) -> LonglookError | None:
    """Why a close leaves nothing to come back to; ``None`` when a reconnect is in order."""
    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
    match code:
        case 1000 | 4410:
            return SessionClosedError("session_closed", reason or "the session was closed")
        case 4409:
            return SessionClosedError("replaced_publisher", reason or "another publisher took over this session")
        case 4401:
            return AuthenticationError("unauthorized", reason or "the server no longer takes this key")
        case 4404:
            return NotFoundError("not_found", reason or "there is no such session any more")
        case 1009:
            return TooLargeError("too_large", reason or "a message was over the server's limit")
        case 1003 | 1007:
            return ProtocolError(reason or "the server could not read a message")
    return None
