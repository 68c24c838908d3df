"""The worker process: settings in, exit status out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import nullcontext

from protocol import ids
from protocol.bus import Bus
from protocol.errors import BusUnavailable
from protocol.logs import configure_logs
from workers.engine.client import ClientLimits, EngineClient, EngineDied
from workers.health import Health
from workers.settings import Settings
from workers.worker import Worker

log = logging.getLogger(__name__)

OK, FAILED, MISCONFIGURED = 0, 1, 78  # 78: starting again would end the same way (sysexits' EX_CONFIG)
BUS_WAIT_S = 30.0


def main(settings: Settings) -> int:
    """Runs a worker until SIGTERM or SIGINT (drains; a second one ends at once) or the engine's death.

    Returns 0 after a drain, 1 where the engine or the bus was lost, 78 where the model cannot be loaded.
    """
    configure_logs("worker", settings.log_level)
    try:
        return asyncio.run(_serve(settings, Stop()))
    except asyncio.CancelledError:
        return OK  # asked to end before there was anything to hand over
    except (BaseExceptionGroup, BusUnavailable, TimeoutError) as failed:
        error = _first(failed)
        if not isinstance(error, EngineDied | BusUnavailable | TimeoutError):
            raise
        log.error("the worker ends: %s", error or "the model took too long to load")
    return FAILED


class Stop:
    """What a signal does: it cancels what is being started, or drains the worker; the second one waits for nothing."""

    def __init__(self) -> None:
        self._asked = False
        self._starting: asyncio.Task[object] | None = None
        self._worker: Worker | None = None

    def install(self) -> None:
        """For the task that starts the worker."""
        self._starting = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)

    def started(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def serving(self) -> bool:
        """Whether the worker takes sessions: it is up, and nobody has asked it to end."""
        return self._worker is not None and not self._asked

    def _stop(self) -> None:
        if self._asked:
            os._exit(FAILED)  # the engine ends with its socket
        self._asked = True
        if self._worker is not None:
            self._worker.stop()
        elif self._starting is not None:
            self._starting.cancel()


async def _serve(settings: Settings, stop: Stop) -> int:
    stop.install()
    health = Health(lambda: stop.serving)
    async with health.serving(settings.health_host, settings.health_port) if settings.health_port else nullcontext():
        return await _work(settings, stop)


async def _work(settings: Settings, stop: Stop) -> int:
    bus = await Bus.connect(settings.redis_url, wait_s=BUS_WAIT_S)
    try:
        async with asyncio.TaskGroup() as group:
            try:
                limits = ClientLimits(start_seconds=settings.start_s)
                engine = await EngineClient.start(group, settings.engine_arguments(), limits)
            except EngineDied as error:
                log.error("the model cannot be served: %s", error)
                return MISCONFIGURED
            await _run(bus, engine, settings, stop)
    finally:
        await bus.aclose()
    return OK


async def _run(bus: Bus, engine: EngineClient, settings: Settings, stop: Stop) -> None:
    worker = Worker(bus, engine, settings, ids.worker_id())
    stop.started(worker)
    try:
        await worker.run()
    finally:
        await engine.close()


def _first(error: BaseException) -> BaseException:
    """An exception out of a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
