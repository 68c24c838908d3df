"""Real processes, ten sessions with live media and questions, and faults from a seed.

``python -m tests.chaos --seed N --seconds 180`` exits with 1 where a promise was broken; its last line sums up.
"""

# ruff: noqa: T201 - what it finds is printed

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.play import play, real, standin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--engine", choices=("real", "standin"), default="real", help="standin: without a model")
    parser.add_argument("--verbose", action="store_true", help="tell each fault")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    began = time.monotonic()

    def tell(text: str) -> None:
        if given.verbose:
            print(f"{time.monotonic() - began:7.2f} {text}", flush=True)

    cast = real(folder / "model") if given.engine == "real" else standin()
    run = play(folder, cast, seed=given.seed, seconds=given.seconds, sessions=given.sessions, tell=tell)
    report = asyncio.run(run)
    for complaint in report.broken[:50]:
        print(complaint)
    if report.broken:
        print(f"logs are in {folder}")
    else:
        shutil.rmtree(folder)
    print(report)
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())
