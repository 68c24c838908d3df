"""Waiting for what another process does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.05


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Returns once ``holds`` says so; TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  # another process has no event to wait for
            await asyncio.sleep(POLL_SECONDS)
