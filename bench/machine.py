"""What a measurement was taken on: it stands beside every figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from bench.host import hardware

Facts = dict[str, str | int | float]


def machine(device: str, threads: int) -> Facts:
    """Processor, memory, versions, commit and date."""
    facts: Facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": hardware(),
        "load_before": round(os.getloadavg()[0], 2),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "threads": threads,
        "device": device,
        "python": platform.python_version(),
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {name: version(name) for name in ("torch", "transformers")}


def _commit() -> str:
    """The commit checked out; unknown on a machine that has no git, or only the files."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run([git, "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
