"""The worker process: settings in, exit status out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

from protocol import ids
from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.logs import configure_logs
from workers.engine.client import ClientLimits, EngineClient, EngineDied
from workers.settings import Settings
from workers.worker import Worker

log = logging.getLogger(__name__)

OK, FAILED, MISCONFIGURED = 0, 1, 78  # 78: starting again would end the same way (sysexits' EX_CONFIG)
BUS_WAIT_S = 30.0
BUS_PAUSE_S = 0.25


def main(settings: Settings) -> int:
    """Runs a worker until SIGTERM or SIGINT (drains; a second one ends at once) or the engine's death.

    Returns 0 after a drain, 1 where the engine or the bus was lost, 78 where the model cannot be loaded.
    """
    configure_logs("worker", settings.log_level)
    try:
        return asyncio.run(_serve(settings))
    except* EngineDied as died:
        log.error("the engine died: %s", _first(died))
    except* BusUnavailable as unreachable:
        log.error("no bus: %s", _first(unreachable))
    return FAILED


async def _serve(settings: Settings) -> int:
    bus = await _connect(settings.redis_url)
    try:
        async with asyncio.TaskGroup() as group:
            try:
                limits = ClientLimits(start_seconds=settings.start_s)
                engine = await EngineClient.start(group, settings.engine_arguments(), limits)
            except EngineDied as error:
                log.error("the model cannot be served: %s", error)
                return MISCONFIGURED
            await _run(bus, engine, settings)
    finally:
        await bus.aclose()
    return OK


async def _run(bus: Bus, engine: EngineClient, settings: Settings) -> None:
    worker = Worker(bus, engine, settings, ids.worker_id())
    loop, asked = asyncio.get_running_loop(), False

    def stop() -> None:
        nonlocal asked
        if asked:
            os._exit(FAILED)  # asked twice: no time for anything; the engine ends with its socket
        asked = True
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    log.info("worker ready", extra={"model": engine.ready.card.name})
    try:
        await worker.run()
    finally:
        await engine.close()


async def _connect(url: str) -> Bus:
    """Waits for a bus that is starting beside this process. Raises BusUnavailable."""
    deadline = time.monotonic() + BUS_WAIT_S
    while True:
        try:
            return await Bus.connect(url)
        except BusUnavailable as error:
            if error.retry_after is None or time.monotonic() > deadline:
                raise
        await asyncio.sleep(BUS_PAUSE_S)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """An exception out of a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
