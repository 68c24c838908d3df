"""Answers through the gateway's death, as the Python client sees them: each arrives once and whole."""

from __future__ import annotations

import asyncio
import io
import random
from pathlib import Path

import psutil
import pytest
from PIL import Image

from launcher.serving import serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

QUESTIONS = 6


def picture(colour: tuple[int, int, int]) -> bytes:
    jpeg = io.BytesIO()
    Image.new("RGB", (224, 224), colour).save(jpeg, "JPEG")
    return jpeg.getvalue()


@pytest.mark.parametrize("moment", range(3))
async def test_every_answer_arrives_once_and_whole(tmp_path: Path, moment: int) -> None:
    pause = random.Random(moment).uniform(0.0, 0.5)
    async with serving(tmp_path / "serve.log") as server, await server.client.create_session() as session:
        async with session.live() as live:
            for second in range(3):
                await live.send_picture(picture((80 * second, 90, 60)), float(second))
            answers = [await live.ask(f"What is in the picture, number {n}?") for n in range(QUESTIONS)]
            await asyncio.sleep(pause)  # the moment of the kill is what is tested
            children = psutil.Process(server.pid).children(recursive=True)
            next(child for child in children if child.cmdline()[-1:] == ["gateway"]).kill()
            late = await live.ask("And now?")
            for answer in [*answers, late]:
                result = await answer.result(60)
                assert "".join([delta.text async for delta in answer]) == result.text, f"killed after {pause:.2f} s"
            assert live.reconnects == 1
            assert await live.send_picture(picture((0, 0, 0)), 10.0)
        assert (await session.answer(late.id)).text == late.text
