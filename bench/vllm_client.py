"""Live video put to an OpenAI-compatible server as people do it: JPEG pictures in base64, the past sent again."""

from __future__ import annotations

import asyncio
import base64
import math
import statistics
import time
from itertools import count, pairwise
from typing import Any

import httpx

from bench.camera import Album
from bench.host import percentile, together

QUESTION = "What is on the table now?"
IN_FLIGHT, A_REQUEST = 64, 8
SKIPPED = 40  # tokens of an answer until all of them are under way
AGES = (10, 30, 60, 90, 120)  # pictures of a session that is sent again


class Asker:
    """Requests to one server; no picture is sent twice unless a session is sent again."""

    def __init__(self, http: httpx.AsyncClient, album: Album) -> None:
        self._http, self._album, self._numbers = http, album, count()

    def fresh(self, pictures: int) -> list[str]:
        """Pictures that the server has not seen, as data URLs."""
        made = [self._album.jpeg(0, next(self._numbers)) for _ in range(pictures)]
        return ["data:image/jpeg;base64," + base64.b64encode(each).decode() for each in made]

    async def ask(self, pictures: list[str], tokens: int) -> list[float]:
        """Seconds from asking to each token."""
        began = time.perf_counter()
        return [at - began for at in await self.told(pictures, tokens)]

    async def told(self, pictures: list[str], tokens: int) -> list[float]:
        """When each token came, by time.perf_counter()."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": each}} for each in pictures]
        body = {
            "model": "peer",
            "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            lines = (line async for line in response.aiter_lines() if _tells(line))
            return [time.perf_counter() async for _ in lines]

    async def ingest(self, requests: int) -> float:
        """Pictures a second with as many requests in flight as keep it busy."""
        await asyncio.gather(*(self.ask(self.fresh(2), 2) for _ in range(8)))
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with places:
                await self.ask(self.fresh(A_REQUEST), 1)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(requests)))
        return requests * A_REQUEST / (time.perf_counter() - began)

    async def first_token(self, pictures: int) -> float:
        """Seconds to the first token over so many pictures that were never seen, on a quiet server."""
        return statistics.median([(await self.ask(self.fresh(pictures), 1))[0] for _ in range(3)])

    async def decode(self, answers: int, tokens: int) -> dict[str, float]:
        """Milliseconds a token for so many answers over 16 pictures each, while all of them run."""
        told = await asyncio.gather(*(self.told(self.fresh(16), tokens) for _ in range(answers)))
        running = [each[min(SKIPPED, len(each) - 1) :] for each in told]
        gaps = [b - a for each in running for a, b in pairwise(each)]
        return {
            "step_ms": round(1e3 * statistics.fmean(together(running) or [math.nan]), 2),
            "gap_p50_ms": round(1e3 * percentile(gaps, 0.5), 2),
            "gap_p99_ms": round(1e3 * percentile(gaps, 0.99), 2),
        }

    async def session(self) -> list[dict[str, float]]:
        """A session that is sent again with each question, one picture longer: seconds to the first token by age."""
        pictures: list[str] = []
        looks = []
        for age in AGES:
            pictures += self.fresh(age - len(pictures))
            await self.ask(pictures, 1)
            firsts = []
            for _ in range(3):
                pictures += self.fresh(1)
                firsts.append((await self.ask(pictures, 1))[0])
            looks.append({"pictures": float(age), "first_token_s": round(statistics.median(firsts), 4)})
        return looks


def _tells(line: str) -> bool:
    return line.startswith("data: {") and '"choices":[{' in line
