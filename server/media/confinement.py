"""What a decoder process gives up before it sees a byte, and the processor time that it is granted after."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys

from server.media.jobs import Setup
from server.media.sandbox import Sandbox

DESCRIPTORS = 8
ADDRESS_SPACE = 1 << 30  # above the limit on memory: libraries are mapped, and what is reserved is not all used
NICE = 5  # below the gateway: what one session sends never delays the others' frames


def confine(setup: Setup, sandbox: Sandbox | None) -> None:
    """For the process's whole life: little memory, no files written, no core dumps, few descriptors, and the sandbox.

    Raises:
        SandboxUnavailable: the kernel refuses it.
    """
    os.nice(NICE)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    if sys.platform == "linux":  # macOS has the names but refuses these limits
        _limit(resource.RLIMIT_DATA, setup.memory_bytes)
        _limit(resource.RLIMIT_AS, setup.memory_bytes + ADDRESS_SPACE)
    if setup.total_cpu_seconds:
        _limit(resource.RLIMIT_CPU, setup.total_cpu_seconds)
    gc.freeze()  # the nursery's objects stay in pages that all decoders share
    if sandbox is not None:
        sandbox.enter()


def grant_cpu(seconds: float) -> None:
    """Processor time from here to the next grant; the kernel ends the process when it is spent."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))
