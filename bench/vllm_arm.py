"""vLLM on the same work, on the same machine, in the same run: its server as people run it, and its streaming sessions.

Three configurations take part, and the one that takes in most pictures a second counts. It is given a model of the same
shape with random weights, and pictures of the same kind, each of them new.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.camera import Album, Blocks
from bench.vllm_client import A_REQUEST, Asker
from bench.vllm_model import write_published
from workers.models.config import ModelConfig

START_S, STOP_S, SESSIONS_S = 300.0, 30.0, 400.0
CONFIGURATIONS: tuple[tuple[str, ...], ...] = (
    ("--api-server-count", "4", "--max-num-batched-tokens", "8192"),
    ("--api-server-count", "8", "--max-num-batched-tokens", "8192"),
    ("--api-server-count", "8", "--max-num-batched-tokens", "16384", "--mm-processor-cache-gb", "0"),
)
Details = dict[str, Any]
EIGHT_BITS = ("--quantization", "fp8")


@dataclass(frozen=True, slots=True)
class VllmPlace:
    """Where vLLM can be imported from (a PYTHONPATH), the shape, which configurations are tried, how much is sent."""

    path: str
    config: ModelConfig
    configurations: tuple[int, ...] = (0, 1, 2)
    requests: int = 110
    makers: int | None = None


class VllmFailed(RuntimeError):
    """The server did not come up; the message ends with the last lines of its log."""


def measured(place: VllmPlace, side: int, before: Details) -> Iterator[Details]:
    """What the best configuration does, these ones and those of `before` counted, and the ceilings of the others; told
    after each of them.
    """
    found: Details = {"configurations": [], **before}
    with _folder(place) as folder:
        for number in place.configurations:
            tried = _tried(place, folder, CONFIGURATIONS[number], side, best=found.get("ingest_fps", 0.0))
            found["configurations"] = [*found["configurations"], _ceiling(tried)]
            if tried["ingest_fps"] > found.get("ingest_fps", 0.0):
                found |= tried
            yield dict(found)


def eight_bits(place: VllmPlace, side: int, before: Details) -> Iterator[Details]:
    """The ceiling of the best configuration with weights in eight bits."""
    options = tuple(before.get("options", CONFIGURATIONS[0]))
    with _folder(place) as folder:
        yield {**before, "fp8": _ceiling(_tried(place, folder, (*options, *EIGHT_BITS), side))}


def sessions(place: VllmPlace, before: Details) -> Iterator[Details]:
    """Its append-only streaming sessions, in a process that has its libraries."""
    with _folder(place) as folder:
        out = folder.parent / "sessions.json"
        command = [sys.executable, "-m", "bench.vllm_sessions", str(folder), str(out)]
        subprocess.run(command, env=_environment(place), timeout=SESSIONS_S, check=True)
        yield {**before, "streaming_sessions": json.loads(out.read_text(encoding="utf-8"))}


@contextmanager
def _folder(place: VllmPlace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as scratch:
        yield write_published(place.config, Path(scratch) / "model")


def _ceiling(tried: Details) -> Details:
    return {key: tried[key] for key in ("command", "ingest_fps")}


def _tried(place: VllmPlace, folder: Path, options: tuple[str, ...], side: int, *, best: float = math.inf) -> Details:
    """Its ceiling; if that is above the `best` of others, all else as well."""
    album = Album(Blocks(side), 1, place.requests * A_REQUEST + (20 if math.isinf(best) else 1_200), place.makers)
    with _served(place, folder, options) as (url, command, version):
        found = asyncio.run(_asked(url, album, place.requests, best))
    return {"command": command, "options": list(options), "version": version, **found}


async def _asked(url: str, album: Album, requests: int, best: float) -> Details:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300.0, limits=limits, trust_env=False) as http:
        asker = Asker(http, album)
        found: Details = {"ingest_fps": round(await asker.ingest(requests), 2)}
        print(found, flush=True)
        if found["ingest_fps"] > best:
            found["first_token_16_s"] = round(await asker.first_token(16), 3)
            found["first_token_64_s"] = round(await asker.first_token(64), 3)
            found["decode"] = {str(answers): await asker.decode(answers, 400) for answers in (1, 32)}
            found["session"] = await asker.session()
    return found


@contextmanager
def _served(place: VllmPlace, folder: Path, options: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """The server's address, its command line and its version."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder)),
        *("--load-format", "dummy", "--served-model-name", "peer", "--max-model-len", "40960"),
        *("--limit-mm-per-prompt", '{"image": 130, "video": 0}', "--host", "127.0.0.1", "--port", str(port)),
        *("--disable-uvicorn-access-log", *options),
    ]
    log = folder.parent / f"server-{port}.log"
    with log.open("w") as told:
        server = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, env=_environment(place))
    try:
        url = f"http://127.0.0.1:{port}"
        yield _ready(server, url, log), " ".join(["vllm", *command[3:]]), _version(url)
    finally:
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ready(server: subprocess.Popen[bytes], url: str, log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2.0, trust_env=False).is_success:
                return url
        except httpx.HTTPError:
            pass  # not up yet
        time.sleep(1.0)
    lines = log.read_text(errors="replace").splitlines()[-30:]
    raise VllmFailed("vLLM's server did not start:\n" + "\n".join(lines))


def _version(url: str) -> str:
    return str(httpx.get(f"{url}/version", timeout=5.0, trust_env=False).json()["version"])


def _environment(place: VllmPlace) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([place.path, root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
