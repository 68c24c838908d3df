"""The gateway and a worker as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from tests.server.conftest import KEY, OTHER_KEY, free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 20.0
STOP_S = 15.0


@dataclass
class GatewayProcess:
    process: subprocess.Popen[bytes]
    url: str

    def ready(self) -> list[str] | None:
        """Ids of the workers that it knows of, None while it is not ready."""
        try:
            reply = httpx.get(f"{self.url}/readyz")
        except httpx.TransportError:
            return None
        return [worker["id"] for worker in reply.json()["workers"]] if reply.status_code == 200 else None

    @property
    def live_url(self) -> str:
        return self.url.replace("http://", "ws://") + "/v1/live"


@contextmanager
def child(
    command: list[str], environment: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that ends with the block; ``log`` takes what it says."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def gateway_process(bus_url: str, *, log: IO[bytes] | None = None, **settings: str) -> Iterator[GatewayProcess]:
    """``python -m server``, ready."""
    port = free_port()
    environment = {
        # One tenant asks here as fast as the machine allows, which is faster than any limit meant for people.
        "LONGLOOK_LIMITS__QUESTIONS_PER_S": "1000",
        "LONGLOOK_LIMITS__REQUESTS_PER_S": "1000",
        "LONGLOOK_REDIS_URL": bus_url,
        "LONGLOOK_PORT": str(port),
        "LONGLOOK_API_KEYS": f"alice:{KEY},bob:{OTHER_KEY}",
        **settings,
    }
    with child(["-m", "server"], environment, log) as process:
        gateway = GatewayProcess(process, f"http://127.0.0.1:{port}")
        _wait(lambda: gateway.ready() is not None, process)
        yield gateway


@contextmanager
def worker_process(bus_url: str, gateway: GatewayProcess, *, sessions: int = 8) -> Iterator[subprocess.Popen[bytes]]:
    """The worker that names colours, once the gateway knows of it."""
    with child(["-m", "tests.server.fake_worker", bus_url, "fake", str(sessions)], {}) as process:
        _wait(lambda: bool(gateway.ready()), process)
        yield process


def _wait(arrived: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not arrived():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "the process is not ready in time"
        time.sleep(0.05)
