"""What a decoder must not be able to do, tried from inside one: for the doctor and for tests."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable

PEEK = 2  # ptrace.h: PTRACE_PEEKDATA


def possible() -> list[str]:
    """Names of what the calling process could do. Nothing of it is left behind."""
    return [name for name, attempt in ATTEMPTS.items() if _let_through(attempt)]


def _let_through(attempt: Callable[[], None]) -> bool:
    """Whether the system tried; what it answered to the attempt itself does not matter."""
    try:
        attempt()
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"probe", ("127.0.0.1", 9))


def _tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.connect(("127.0.0.1", 9))


def _read() -> None:
    os.close(os.open(__file__, os.O_RDONLY))


def _write() -> None:
    nameless = getattr(os, "O_TMPFILE", 0)
    os.close(os.open("/tmp", os.O_WRONLY | nameless))  # noqa: S108 - a file without a name: nothing is left behind


def _exec() -> None:
    os.execv("/nowhere/longlook-probe", ["probe"])  # noqa: S606 - no such program: it must not even be looked for


def _ptrace() -> None:
    _call("ptrace", PEEK, os.getppid(), 0, 0)


def _memory_of_others() -> None:
    _call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _signal() -> None:
    os.kill(os.getppid(), 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), name)


ATTEMPTS: dict[str, Callable[[], None]] = {
    "udp": _udp,
    "tcp": _tcp,
    "read": _read,
    "write": _write,
    "exec": _exec,
    "ptrace": _ptrace,
    "memory of others": _memory_of_others,
    "fork": _fork,
    "signal": _signal,
}
