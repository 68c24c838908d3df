"""``python -m server``: one gateway process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys

import uvloop

from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.logs import configure_logs
from server.app import create_app
from server.auth import Keyring, new_key, parse_keys
from server.drain import DrainServer
from server.journal.journal import open_vault
from server.settings import Settings

logger = logging.getLogger(__name__)

BUS_WAIT_S = 30.0


def main() -> int:
    """Serve until a signal. Returns the exit status: 0 after a drain, 1 where the bus cannot be had, 78 where the
    journal cannot be used as it is set.
    """
    settings = Settings()
    configure_logs("gateway", settings.log_level)
    try:
        if settings.journal.dir is not None:
            open_vault(settings.journal, settings.journal.dir)
    except (OSError, ValueError) as error:
        logger.error("the journal cannot be used: %s", error)
        return os.EX_CONFIG
    keyring = _keyring(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, keyring))


async def serve(settings: Settings, keyring: Keyring) -> int:
    """Serve one gateway on the running loop, as ``main`` does."""
    try:
        bus = await Bus.connect(settings.redis_url, wait_s=BUS_WAIT_S)
    except BusUnavailable as error:
        logger.error("no bus at REDIS_URL: %s", error.message)
        return 1
    try:
        server = DrainServer(create_app(settings, bus, keyring), settings)
        logger.info("gateway listens", extra={"address": f"http://{settings.host}:{settings.port}"})
        await server.serve(sockets=_inherited(settings))
        return 0
    finally:
        await bus.aclose()


def _inherited(settings: Settings) -> list[socket.socket] | None:
    if settings.listen_fd is None:
        return None
    os.set_inheritable(settings.listen_fd, False)  # it is for this process alone, not for decoders
    return [socket.socket(fileno=settings.listen_fd)]


def _keyring(settings: Settings) -> Keyring:
    keys = parse_keys(settings.api_keys.get_secret_value())
    if not keys and settings.api_keys_file is None:
        key = new_key()
        keys = parse_keys(key)
        print(f"no API key is set; this one is good until the gateway ends: {key}", flush=True)  # noqa: T201
    return Keyring(keys, settings.api_keys_file)


if __name__ == "__main__":
    sys.exit(main())
