"""The gateway's side of a puller process: started with a connection and an order, heard until its end."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from server.media.jobs import PREFIX, framed
from server.sources.messages import Pull, Report, decode_report

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 1.0
MESSAGE_BYTES = 64 << 20


class PullerLost(Exception):
    """The puller crashed or spoke nonsense."""


class Puller:
    """One running puller."""

    def __init__(self, process: asyncio.subprocess.Process, reports: asyncio.StreamReader) -> None:
        self.pid = process.pid
        self._reports = reports

    async def next(self) -> Report:
        """The next report. Raises PullerLost where no more will come."""
        try:
            (length,) = PREFIX.unpack(await self._reports.readexactly(PREFIX.size))
            if length > MESSAGE_BYTES:
                raise ValueError(length)
            report: Report = decode_report(await self._reports.readexactly(length))
        except (OSError, EOFError, ValueError, msgspec.MsgspecError):
            raise PullerLost from None
        return report


@asynccontextmanager
async def running_puller(connection: socket.socket, order: Pull) -> AsyncIterator[Puller]:
    """A puller over ``connection``, which becomes the process's; it ends with the block."""
    with connection:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "server.sources.puller", str(connection.fileno())),
            pass_fds=[connection.fileno()],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
            env={"PATH": os.defpath},  # the gateway's environment holds keys
            start_new_session=True,  # a Ctrl+C in the terminal is the gateway's to handle
        )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a process without the pipes that were asked for")
    try:
        with suppress(OSError):
            process.stdin.write(framed(order))
            await process.stdin.drain()
        yield Puller(process, process.stdout)
    finally:
        process.stdin.close()
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for the process to leave by itself, but not for long."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
