"""What a decoder process gives up before it sees a byte, and the processor time that it is granted after."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from server.media.jobs import Setup
from server.media.sandbox import Sandbox

Grant = Callable[[], None]  # gives the work that follows its processor time

DESCRIPTORS = 8
ADDRESS_SPACE = 1 << 30  # above the limit on memory: what is mapped to be read, and what is reserved and not used
NICE = 5  # below the gateway: what one session sends never delays the others' frames
FILE_NICE = 8  # whole files take half as much as live media: nobody waits for them picture by picture


def confine(setup: Setup, sandbox: Sandbox | None) -> None:
    """For the process's whole life: little memory, no files written, no core dumps, few descriptors, and the sandbox.

    Raises:
        SandboxUnavailable: the kernel refuses it.
    """
    os.nice(FILE_NICE if setup.total_cpu_seconds else NICE)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    if sys.platform == "linux":  # macOS has the names but refuses these limits
        libraries = _writable_bytes()
        _limit(resource.RLIMIT_DATA, libraries + setup.memory_bytes)
        _limit(resource.RLIMIT_AS, libraries + setup.memory_bytes + ADDRESS_SPACE)
    if setup.total_cpu_seconds:
        _limit(resource.RLIMIT_CPU, setup.total_cpu_seconds)
    gc.freeze()  # the nursery's objects stay in pages that all decoders share
    if sandbox is not None:
        sandbox.enter()


def grant_cpu(seconds: float) -> None:
    """Processor time from here to the next grant; the kernel ends the process when it is spent."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _writable_bytes() -> int:
    """What RLIMIT_DATA counts, as far as it is used up before the first job."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[5]) * resource.getpagesize()


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))
