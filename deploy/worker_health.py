"""Health check of the worker's image: is there a worker on the bus, and is this container's engine alive?"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from protocol.bus import Bus

ENGINE = b"workers.engine"


async def worker_on_the_bus(url: str) -> bool:
    bus = await Bus.connect(url)
    try:
        return bool(await bus.placement.workers())
    finally:
        await bus.aclose()


def engine_runs() -> bool:
    return any(ENGINE in _command(process) for process in Path("/proc").glob("[0-9]*"))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""  # it ended meanwhile


if __name__ == "__main__":
    sys.exit(0 if engine_runs() and asyncio.run(worker_on_the_bus(os.environ["LONGLOOK_REDIS_URL"])) else 1)
