"""``longlook serve``: the embedded server, a worker and the gateway as siblings, each restarted when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from launcher.settings import Settings
from launcher.supervisor import CannotStart, Program, keep_running
from launcher.valkey import bundled_binary, last_words, private_socket, server_command, socket_url
from protocol.bus import Bus
from protocol.errors import BusUnavailable

BUS_WAIT_S = 10.0
POLL_S = 0.2
BACKLOG = 1024
DRAIN_MARGIN_S = 20.0  # for the last words of engine and bus

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to start. ``key`` is shown where it is not empty: nobody else knows it."""

    host: str
    port: int
    model: str
    gateway_drain_s: float
    worker_drain_s: float
    key: str

    @property
    def address(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104  # where to reach it from here
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def port_problem(host: str, port: int) -> str:
    """Why nothing can listen there, or nothing."""
    try:
        listen(host, port).close()
    except OSError as error:
        return f"{host}:{port}: {error.strerror}"
    return ""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that outlives each gateway: who connects while one is restarted waits, and is not refused."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


async def serve(settings: Settings, plan: Plan, tell: Tell) -> int:
    """Runs until SIGINT or SIGTERM, or until a part cannot start. Returns the exit status.

    The parts find each other by the environment, which this sets. On the way out the gateway goes first, so that
    answers under way still have their worker.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stopper(stopping))
    with ExitStack() as stack:
        listening = stack.enter_context(listen(plan.host, plan.port))
        os.environ["LONGLOOK_LISTEN_FD"] = str(listening.fileno())
        path = None if settings.redis_url else stack.enter_context(private_socket())
        os.environ["LONGLOOK_REDIS_URL"] = settings.redis_url or socket_url(path or Path())
        _greet(plan, embedded=path is not None, tell=tell)
        try:
            return await _supervise(_programs(settings, plan, path, listening), plan, stopping, tell)
        except BusUnavailable as error:
            tell(f"{error.message}. {last_words(path) if path else 'Is REDIS_URL right, and its server running?'}")
        except CannotStart as error:
            tell(str(error))
        return 1


def _programs(settings: Settings, plan: Plan, path: Path | None, listening: socket.socket) -> list[Program]:
    """In the order in which they start."""
    programs = [
        Program("worker", _command("worker"), plan.worker_drain_s + DRAIN_MARGIN_S),
        Program("gateway", _command("gateway"), plan.gateway_drain_s + DRAIN_MARGIN_S, (listening.fileno(),)),
    ]
    if path is None:
        return programs
    return [Program("valkey", server_command(bundled_binary(), path, megabytes=settings.redis_megabytes)), *programs]


async def _supervise(programs: Sequence[Program], plan: Plan, stopping: asyncio.Event, tell: Tell) -> int:
    tasks: list[asyncio.Task[None]] = []
    watch = asyncio.ensure_future(stopping.wait())
    try:
        for program in programs:
            if program.name != "valkey":
                bus = await Bus.connect(os.environ["LONGLOOK_REDIS_URL"], wait_s=BUS_WAIT_S)
                await bus.aclose()
            tasks.append(asyncio.create_task(keep_running(program), name=program.name))
        tasks.append(asyncio.create_task(_announce(plan, tell), name="ready"))
        return await _first_failure(tasks, watch)
    finally:
        watch.cancel()
        for task in reversed(tasks):
            task.cancel()
            await asyncio.wait([task])


async def _first_failure(tasks: list[asyncio.Task[None]], watch: asyncio.Future[Any]) -> int:
    waiting: set[asyncio.Future[Any]] = {*tasks, watch}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()
        if watch in done:
            return 0


async def _announce(plan: Plan, tell: Tell) -> None:
    """Says so once, when the first worker takes sessions."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=plan.address, timeout=2.0, trust_env=False) as client:
        while True:
            try:
                response = await client.get("/readyz")
                if response.status_code == 200 and response.json()["workers"]:
                    break
            except httpx.HTTPError:
                pass  # not up yet
            await asyncio.sleep(POLL_S)
    tell(f"Ready after {time.monotonic() - began:.1f} s.")


def _greet(plan: Plan, *, embedded: bool, tell: Tell) -> None:
    tell(f"Longlook starts with the model {plan.model}")
    tell(f"  page  {plan.address}/" + (f"#key={plan.key}" if plan.key else ""))
    tell(f"  API   {plan.address}/v1")
    if plan.key:
        tell(f"  key   {plan.key}   (random, for this run; set LONGLOOK_API_KEYS for your own)")
    if embedded:
        tell("  bus   embedded Valkey: sessions live in memory alone and end with it; set REDIS_URL for your own")


def _command(verb: str) -> list[str]:
    return [sys.executable, "-m", "launcher.cli", verb]


def _stopper(stopping: asyncio.Event) -> Callable[[], None]:
    def stop() -> None:
        if stopping.is_set():
            os._exit(1)  # asked twice: the children die with this process
        stopping.set()

    return stop
