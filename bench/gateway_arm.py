"""A question's first token as a client has it, through gateway, bus and worker, on a machine that does nothing else."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.camera import View, jpeg
from bench.host import percentile
from launcher.serving import serving
from longlook_client import AsyncLiveSession

QUESTION = "What is on the table now?"
OPEN_S = 60.0
BETWEEN_S = 0.1  # from a picture to the question about it: by then it is in memory


async def quiet(
    folder: Path, environment: Mapping[str, str], view: View, budget: int, fill: int, count: int
) -> dict[str, float]:
    """Over `count` questions to a session whose trunk `fill` pictures have filled; one more comes before each."""
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as logs:
        async with serving(Path(logs) / "serve.log", model=str(folder), environment=environment) as server:
            opened = await server.client.create_session(wait=OPEN_S, fps=2.0, budget_tokens=budget, policy="window")
            async with opened as session, session.live() as live:
                firsts = []
                for number in range(fill + count):
                    await live.send_picture(jpeg(view, 0, number), float(number))
                    await asyncio.sleep(BETWEEN_S)
                    if number >= fill:
                        firsts.append(await _first_token(live))
    return {
        "first_token_ms": round(1e3 * statistics.median(firsts), 2),
        "first_token_p95_ms": round(1e3 * percentile(firsts, 0.95), 2),
        "questions": len(firsts),
    }


async def _first_token(live: AsyncLiveSession) -> float:
    asked, first = time.monotonic(), 0.0
    async for _ in await live.ask(QUESTION, remember=False, max_tokens=1):
        first = first or time.monotonic() - asked
    return first
