"""Two answers over HTTP for whoever keeps the worker running: is it alive, and does it take sessions.

It shares the worker's event loop, so that a worker which hangs does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

HEAD_BYTES = 8 << 10
HEAD_S = 5.0
PHRASES = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class Health:
    """``ready`` is asked at each request; ``port`` is known while it serves."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        """Answers while the context is open. OSError where the port is taken."""
        server = await asyncio.start_server(self._answer, host, port, limit=HEAD_BYTES)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError):
            pass  # no request: nothing to answer
        finally:
            writer.close()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0]
        known = {b"/livez": 200, b"/readyz": 200 if self._ready() else 503}
        status = known.get(path, 404) if method in (b"GET", b"HEAD") else 404
        body = PHRASES[status].encode()
        lines = [f"HTTP/1.1 {status} {PHRASES[status]}", f"content-length: {len(body)}", "connection: close"]
        return "\r\n".join([*lines, "content-type: text/plain", "", ""]).encode() + (body if method == b"GET" else b"")
