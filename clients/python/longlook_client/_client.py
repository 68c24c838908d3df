"""The way in: a client of one server, with one key."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Final, Self, Unpack

from longlook_client._errors import UnavailableError
from longlook_client._options import SessionOptions
from longlook_client._session import AsyncSession
from longlook_client._transport import Transport
from longlook_client._types import Model, SessionInfo

DEFAULT_URL: Final = "http://127.0.0.1:8080"
POLL_SECONDS: Final = 0.5


class AsyncClient:
    """Talks to the server at ``url`` with ``key`` (default: the variables LONGLOOK_URL and LONGLOOK_API_KEY).

    Every call raises :class:`ServerError` of the fitting kind for what the server refuses and :class:`ConnectError`
    when it cannot be reached.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = url or os.environ.get("LONGLOOK_URL") or DEFAULT_URL
        self._transport = Transport(self.url, key or os.environ.get("LONGLOOK_API_KEY"), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def create_session(self, *, wait: float = 0.0, **options: Unpack[SessionOptions]) -> AsyncSession:
        """Opens a session. While the server has no room or no worker yet, it is asked again for up to ``wait`` seconds
        before :class:`UnavailableError` is raised."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        while True:
            try:
                reply = await self._transport.json("POST", "/v1/sessions", repeatable=False, json=options)
                return AsyncSession(self._transport, str(reply["id"]), SessionInfo.from_json(reply))
            except UnavailableError as error:
                pause = min(error.retry_after or POLL_SECONDS, deadline - clock())
                if pause <= 0:
                    raise
            await asyncio.sleep(pause)

    def session(self, session_id: str) -> AsyncSession:
        """A handle on a session opened earlier; nothing is sent."""
        return AsyncSession(self._transport, session_id)

    async def sessions(self) -> list[SessionInfo]:
        reply = await self._transport.json("GET", "/v1/sessions")
        return [SessionInfo.from_json(each) for each in reply.get("data", ())]

    async def models(self) -> list[Model]:
        reply = await self._transport.json("GET", "/v1/models")
        return [Model.from_json(each) for each in reply.get("data", ())]

    async def ready(self) -> bool:
        """Whether the server has its bus and at least one worker."""
        try:
            await self._transport.json("GET", "/readyz")
        except UnavailableError:
            return False
        return True
