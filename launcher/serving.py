"""A whole server for as long as a block of code needs one: for demo, benchmarks, and tests of the real thing."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.child import spawn, stop
from launcher.serve import free_port
from longlook_client import AsyncClient, LonglookError
from server.auth import new_key

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0
LOG_LINES_SHOWN: Final = 15
# The shell is replaced by the command, so that the process started is the command's own.
LOGGED: Final = 'log="$0"; exec "$@" > "$log" 2>&1'


class ServerFailed(Exception):
    """The server did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Serving:
    """A running server: ``pid`` is the launcher's, whose descendants are everything else."""

    client: AsyncClient
    url: str
    key: str
    pid: int


@asynccontextmanager
async def serving(
    log: Path, *, model: str | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Serving]:
    """`longlook serve` on a free port with a key of its own, ready for sessions; ended with the block."""
    port, key = free_port("127.0.0.1"), new_key()
    command = [sys.executable, "-m", "launcher.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    surroundings = {**os.environ, **(environment or {}), "LONGLOOK_API_KEYS": key}
    server = await logged([*command, *(("--model", model) if model else ())], log, surroundings)
    url = f"http://127.0.0.1:{port}"
    try:
        async with AsyncClient(url, key) as client:
            await _ready(client, server, log)
            yield Serving(client, url, key, server.pid)
    finally:
        await stop(server, seconds=STOP_SECONDS)


async def logged(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Starts `command`, bound to the life of this process, with its output in the file `log`."""
    return await spawn(["/bin/sh", "-c", LOGGED, str(log), *command], environment=environment)


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])


async def _ready(client: AsyncClient, server: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.returncode is None:
        try:
            if await client.models():
                return
        except LonglookError:
            pass  # not up yet
        await asyncio.sleep(0.2)
    why = "ended" if server.returncode is not None else f"was not ready after {START_SECONDS:.0f} s"
    raise ServerFailed(f"the server {why}; its last lines:\n{tail(log)}")
