"""A server that goes down gently: SIGTERM lets answers under way end, a second signal does not wait."""

from __future__ import annotations

import logging
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.gateway import Gateway
from server.protocols import LiveSocketProtocol, head_deadline
from server.settings import Settings

logger = logging.getLogger(__name__)

NOTICE_S = 0.6  # clients hear of the end before it comes
GRACE_S = 5.0  # for responses that are still being sent
PING_S = 20.0


class DrainServer(uvicorn.Server):
    """After the first signal: not ready, new sessions and sockets refused, clients told; it ends when no question waits
    for its answer any more, at the latest after ``drain_s``. Exit status 0.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        limits = settings.limits
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=head_deadline(limits.head_s),
                ws=LiveSocketProtocol,
                ws_max_size=limits.message_bytes + 16,
                ws_per_message_deflate=False,
                ws_ping_interval=PING_S,
                ws_ping_timeout=limits.stall_s,  # while the worker is behind, a socket is not read, its pongs neither
                timeout_graceful_shutdown=round(GRACE_S),
                timeout_keep_alive=15,
                access_log=False,
                log_config=None,
                log_level="warning",  # its lines would show tokens in addresses
                server_header=False,
                proxy_headers=False,
                lifespan="on",
            )
        )
        self._app = app
        self._drain_s = settings.drain_s
        self._signalled_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, the second ends it."""
        if self._signalled_at is None:
            self._signalled_at = time.monotonic()
        else:
            self.force_exit = True
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._signalled_at is not None and not self.should_exit:
            self._drain(time.monotonic() - self._signalled_at)
        return await super().on_tick(counter)

    def _drain(self, elapsed: float) -> None:
        gateway: Gateway = self._app.state.gateway
        if not gateway.condition.draining.is_set():
            logger.info("going down", extra={"count": len(gateway.questions)})
            gateway.condition.draining.set()
        answered = elapsed >= NOTICE_S and not len(gateway.questions)
        if answered or elapsed >= self._drain_s:
            gateway.relay.finish()
            self.should_exit = True
