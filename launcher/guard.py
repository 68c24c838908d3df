"""Stands between a parent and its child where the system does not end children with their parent.

Run as ``python -m launcher.guard FD COMMAND...``: FD is the reading end of a pipe that the parent holds. When it
closes, the child is killed; when the child ends, its status is passed on; SIGTERM and SIGINT are handed to the child.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str]) -> int:
    """Returns the child's exit status, negative signal numbers as 128 + n."""
    pipe, command = int(arguments[0]), arguments[1:]
    # What was inherited is handed on; this process opened nothing that could be inherited yet.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603  # the launcher's own
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)

    def hand_over(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_over)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while child.poll() is None:
        ready, _, _ = select.select([pipe, woken], [], [])
        if woken in ready:
            os.read(woken, 512)
        if pipe in ready:
            child.kill()
            child.wait()
    status = child.returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
