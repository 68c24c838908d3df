"""Looks at what Longlook needs of a machine. Every check says what it found, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from launcher.serve import port_problem
from launcher.settings import Settings
from launcher.valkey import ValkeyMissing, bundled_binary
from protocol.bus import Bus
from protocol.errors import BusUnavailable, NoSandbox
from server.media.decoders import DecoderLost
from server.media.escapes import escapes
from server.settings import Settings as GatewaySettings
from workers.settings import Settings as WorkerSettings

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """``advice`` says what to do where the check is not ``ok``."""

    name: str
    ok: bool
    found: str
    advice: str = ""


async def diagnose() -> list[Check]:
    """All checks, in the order in which their failures matter."""
    return [
        python(),
        av(),
        await sandbox(GatewaySettings()),
        torch(WorkerSettings()),
        model(WorkerSettings()),
        await redis(Settings()),
        port(),
    ]


def python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= OLDEST_PYTHON, found, "install Python 3.11 or newer")


def av() -> Check:
    return _module("av", "reinstall it with `pip install --force-reinstall av`", lambda: "")


async def sandbox(settings: GatewaySettings) -> Check:
    """Whether decoders are confined: one is started, and tries what it must not be able to do."""
    if settings.unsafe_decoder:
        return Check("sandbox", True, "not asked for: unsafe_decoder is set, media of all senders are trusted")
    try:
        possible = await escapes()
    except (NoSandbox, DecoderLost) as error:
        advice = "install libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora); without it media is refused"
        return Check("sandbox", False, str(error), f"{advice} unless --unsafe-decoder is set")
    found = (
        f"a decoder could still: {', '.join(possible)}" if possible else "a decoder reaches no file, socket, process"
    )
    return Check(
        "sandbox", not possible, found, "this kernel does not keep to its system call filters: use another one"
    )


def torch(settings: WorkerSettings) -> Check:
    """torch itself, and the device that the worker is set to."""
    if find_spec("torch") is None:
        return Check("torch", False, "not installed", "install it with `pip install 'longlook[worker]'`")
    advice = 'install a build of torch for this machine\'s driver, or set device = "cpu"'
    return _module("torch", advice, lambda: _device(settings.device))


def model(settings: WorkerSettings) -> Check:
    """Whether the model's files are on this machine; nothing is downloaded."""
    if find_spec("huggingface_hub") is None:
        return Check("model", False, settings.model, "install the worker's parts first")
    from workers.models.errors import ModelError
    from workers.models.hub import resolve

    try:
        folder = resolve(settings.model, revision=settings.revision, cache=settings.cache_dir, offline=True)
    except ModelError as error:
        return Check("model", False, settings.model, str(error))
    if not list(folder.glob("*.safetensors")):
        return Check("model", False, str(folder), "the folder holds no weights (*.safetensors)")
    return Check("model", True, str(folder))


async def redis(settings: Settings) -> Check:
    """The server that was named, or the embedded one's binary."""
    if not settings.redis_url:
        try:
            return Check("redis", True, f"embedded: {bundled_binary()}")
        except ValkeyMissing as error:
            return Check("redis", False, "no embedded server", str(error))
    try:
        bus = await Bus.connect(settings.redis_url)
    except BusUnavailable as error:
        return Check("redis", False, str(error), "start it, or correct REDIS_URL")
    await bus.aclose()
    return Check("redis", True, "answers")


def port() -> Check:
    """Whether the gateway can listen where it is set to."""
    settings = GatewaySettings()
    problem = port_problem(settings.host, settings.port)
    found = problem or f"{settings.host}:{settings.port} is free"
    return Check("port", not problem, found, "stop what listens there, or choose --port")


def _module(name: str, advice: str, more: Callable[[], str]) -> Check:
    try:
        importlib.import_module(name)
        return Check(name, True, f"{importlib.metadata.version(name)}{more()}")
    except (ImportError, OSError, RuntimeError) as error:
        return Check(name, False, str(error), advice)


def _device(device: str) -> str:
    if device == "cpu":
        return ", on cpu"
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        raise RuntimeError("torch finds no CUDA device")
    return f", on {cuda.get_device_name()}"
