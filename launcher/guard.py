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
from collections.abc import Callable, Sequence


def main(arguments: Sequence[str]) -> int:
    """Returns the child's exit status, negative signal numbers as 128 + n."""
    pipe, command = int(arguments[0]), arguments[1:]
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    early: list[int] = []  # signals that came before there was a child to hand them to
    hand_over: Callable[[int], None] = early.append
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: hand_over(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # What was inherited is handed on; what was opened here is not inheritable.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603  # the launcher's own
    hand_over = child.send_signal
    for missed in early:
        hand_over(missed)
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
