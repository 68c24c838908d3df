"""vLLM's append-only streaming sessions: what a picture costs by the session's age, and how many live ones keep up.

    python -m bench.vllm_sessions FOLDER OUT

Runs where vLLM can be imported. A session gets one picture a chunk and says one token; nothing of it is ever evicted.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from PIL import Image

from bench.camera import Blocks
from bench.host import percentile

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
OLDEST, LOOKED = 420, 10
AGES = (0, 30, 60, 120, 180, 240, 300, 360, 410)
CROWDS = (8, 16, 24, 32, 40)
LIVE_S = 30
TOO_LATE_S = 3.0


class Sessions:
    """Streaming sessions on one engine of vLLM's."""

    def __init__(self, folder: str, view: Blocks) -> None:
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.engine.protocol import StreamingInput
        from vllm.v1.engine.async_llm import AsyncLLM

        self.arguments: dict[str, Any] = {
            "load_format": "dummy",
            "dtype": "bfloat16",
            "max_model_len": 120_000,
            "limit_mm_per_prompt": {"image": 500, "video": 0},
            "max_num_batched_tokens": 8192,
            "max_num_seqs": 128,
            "mm_processor_cache_gb": 0,
        }
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=folder, **self.arguments))
        self._input, self._view = StreamingInput, view
        self._sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)

    async def live(self, name: str, camera: int, pictures: int, period: float) -> list[float]:
        """Ages of a session's pictures when each has brought its token. Without a period each waits for the last."""
        clock = asyncio.get_running_loop().time
        due: list[float] = []
        ages: list[float] = []
        heard = asyncio.Event()

        async def chunks() -> AsyncIterator[Any]:
            start = clock()
            for number in range(pictures):
                image = await asyncio.to_thread(self._picture, camera, number)
                if period:
                    await asyncio.sleep(max(0.0, start + number * period - clock()))
                due.append(clock())
                prompt = {"prompt": PICTURE, "multi_modal_data": {"image": [image]}}
                yield self._input(prompt=prompt, sampling_params=self._sampling)
                if not period:
                    await heard.wait()
                    heard.clear()

        async for _ in self._engine.generate(chunks(), self._sampling, name):
            if len(ages) < len(due):
                ages.append(clock() - due[len(ages)])
            heard.set()
        return ages

    def close(self) -> None:
        self._engine.shutdown()

    def _picture(self, camera: int, number: int) -> Image.Image:
        return Image.fromarray(self._view.pixels(camera, number))


async def measured(sessions: Sessions, period: float = 1.0) -> dict[str, Any]:
    """Milliseconds a picture by a session's age; ages of pictures in crowds that show one every `period` seconds."""
    await sessions.live("warm", 0, 4, 0.0)
    ages = await sessions.live("aging", 1, OLDEST, 0.0)
    told: dict[str, Any] = {"arguments": sessions.arguments, "by_age": [], "crowds": []}
    for age in AGES:
        part = ages[age : age + LOOKED]
        told["by_age"].append({"pictures": age, "picture_ms": round(1e3 * statistics.median(part), 2)})
    for count in CROWDS:
        crowd = (sessions.live(f"{count}-{number}", 2 + number, LIVE_S, period) for number in range(count))
        late = [age for each in await asyncio.gather(*crowd) for age in each[5:]]
        p50, p95 = percentile(late, 0.5), percentile(late, 0.95)
        told["crowds"].append({"sessions": count, "age_p50_s": round(p50, 3), "age_p95_s": round(p95, 3)})
        print(told["crowds"][-1], flush=True)
        if p50 > TOO_LATE_S:
            break
    return told


def main() -> None:
    folder, out = sys.argv[1:]
    sessions = Sessions(folder, Blocks(448))
    try:
        found = asyncio.run(measured(sessions))
    finally:
        sessions.close()
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
