"""Encoders that change how a process is scheduled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def usual_priority() -> Iterator[None]:
    """Gives all threads of this process back to the ordinary scheduler at its end. Also a decorator.

    SVT-AV1, run by root, makes its threads and the one that called it real-time ones. What they start inherits that:
    from then on nothing else on the machine gets to run while they have work.
    """
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler"):
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
