"""Keeps a process running: restarts it with growing pauses, and gives up where starting again cannot help."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.child import spawn, stop

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
STEADY_S = 30.0  # a process that ran for so long begins again with the first pause
MISCONFIGURED = 78


class CannotStart(Exception):
    """A process said itself that starting it again would end the same way."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot start; its last log line says why")
        self.name = name


@dataclass(frozen=True)
class Program:
    """``stop_s``: how long it may take to end after SIGTERM, longer than its own drain. ``inherited``: descriptors."""

    name: str
    command: Sequence[str]
    stop_s: float = 5.0
    inherited: Sequence[int] = ()


async def keep_running(program: Program) -> None:
    """Runs the program, again and again, until cancelled; then ends it, which takes at most ``stop_s``.

    Raises CannotStart where the program exits with 78.
    """
    pause = FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        status = await _run_once(program)
        if status == MISCONFIGURED:
            raise CannotStart(program.name)
        ran = time.monotonic() - began
        pause = FIRST_PAUSE_S if ran > STEADY_S else min(pause * 2, LONGEST_PAUSE_S)
        extra = {"process_name": program.name, "exit_status": status, "seconds": round(ran, 1)}
        log.error("a process ended and is started again", extra=extra)
        await asyncio.sleep(pause)


async def _run_once(program: Program) -> int:
    process = await spawn(program.command, inherited=program.inherited)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await asyncio.shield(stop(process, seconds=program.stop_s))
