"""The page in headless Chromium, with a rendered clip as its camera, against a whole server.

With LONGLOOK_SCREENSHOT set, what the page shows in the end is saved under that name.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import psutil
import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from launcher.serving import Serving, serving
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SEED, SECONDS, HELD_SECONDS, RATE = 3, 20, 120, 5
ANSWER_MS = 30_000


class Scene(NamedTuple):
    """A camera that ends in a still picture, and what is true of that."""

    camera: Path
    question: str
    value: str


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The clip until a moment of which something is known; the camera then holds still."""
    folder = tmp_path_factory.mktemp("scene")
    clip, truth = folder / "clip.mp4", folder / "truth.json"
    arguments = ["--seed", str(SEED), "--seconds", str(SECONDS), "--out", str(clip), "--truth", str(truth)]
    subprocess.run([sys.executable, "-m", "training.world", "render", *arguments], check=True, capture_output=True)
    asked = json.loads(truth.read_text())["questions"]
    known = next(question for question in asked if question["kind"] == "what")
    camera = folder / "camera.y4m"
    _write_camera(clip, known["time"], camera)
    return Scene(camera, known["text"], known["value"])


def _write_camera(clip: Path, until: float, camera: Path) -> None:
    with av.open(str(clip)) as container, camera.open("wb") as file:
        stream = container.streams.video[0]
        file.write(f"YUV4MPEG2 W{stream.width} H{stream.height} F{RATE}:1 Ip A1:1 C420jpeg\n".encode())
        due, picture = 0.0, b""
        for frame in container.decode(stream):
            if frame.time is None or frame.time > until:
                break
            if frame.time >= due:
                due += 1 / RATE
                picture = b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes()
                file.write(picture)
        file.writelines([picture] * (HELD_SECONDS * RATE))


class Console:
    """What the page and the browser complain about."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def take(self) -> list[str]:
        errors, self.errors = self.errors, []
        return errors


@asynccontextmanager
async def opened(address: str, camera: Path, **context: Any) -> AsyncIterator[tuple[Page, Console]]:
    camera_arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET + camera_arguments)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 760}, **context)
            console = Console(page)
            await page.goto(address)
            yield page, console
        finally:
            await browser.close()


async def ask(page: Page, question: str) -> str:
    """Asks on the page; the answer's text once it is complete."""
    await page.get_by_label("Question", exact=True).fill(question)
    await page.get_by_role("button", name="Ask").click()
    answer = page.locator("article").last
    await expect(answer).to_have_attribute("data-state", "done", timeout=ANSWER_MS)
    return await answer.locator(".answer").inner_text()


def gateway_process(server: Serving) -> psutil.Process:
    children = psutil.Process(server.pid).children(recursive=True)
    return next(child for child in children if child.cmdline()[-1:] == ["gateway"])


async def stream_seconds(page: Page) -> int:
    seconds = await page.locator("#time").inner_text()
    minutes, _, rest = seconds.partition(":")
    return 60 * int(minutes) + int(rest) if rest else -1


async def test_ask_about_the_camera_and_survive_a_restart(scene: Scene, tmp_path: Path) -> None:
    until = len(await asyncio.to_thread(scene.camera.read_bytes)) // (224 * 224 * 3 // 2) / RATE - HELD_SECONDS

    async def still() -> bool:
        return await stream_seconds(page) > until + 1

    async def flowing() -> bool:
        return await stream_seconds(page) > before + 1

    async with (
        serving(tmp_path / "serve.log") as server,
        opened(f"{server.url}/#key={server.key}", scene.camera) as (page, console),
    ):
        assert "key" not in page.url, "the key must leave the address"
        await page.get_by_role("button", name="Camera").click()
        await expect(page.get_by_role("status")).to_have_text("live")
        assert await page.locator("#preview").evaluate("video => video.videoWidth > 0 && !video.paused")
        await eventually(still, 60)
        assert scene.value in (await ask(page, scene.question)).lower()
        assert console.take() == []

        before = await stream_seconds(page)
        gateway_process(server).kill()
        await expect(page.get_by_role("status")).to_have_text("reconnecting…")
        await expect(page.get_by_role("status")).to_have_text("live", timeout=30_000)
        assert console.take() == []
        await eventually(flowing)
        await page.get_by_text("Follow live").click()
        assert scene.value in (await ask(page, scene.question)).lower()
        if name := os.environ.get("LONGLOOK_SCREENSHOT"):
            await expect(page.locator("#fps")).to_contain_text(re.compile("of (1.0|0.9)"), timeout=60_000)
            await page.screenshot(path=name)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("status")).to_have_text("not streaming")
        assert console.take() == []


async def test_a_wrong_key_the_sample_clip_and_a_session_that_is_closed_from_outside(
    scene: Scene, tmp_path: Path
) -> None:
    async def playing() -> bool:
        return await stream_seconds(page) >= 2

    async with (
        serving(tmp_path / "serve.log") as server,
        opened(f"{server.url}/#key=not-the-key", scene.camera) as (page, console),
    ):
        await expect(page.get_by_role("dialog")).to_be_visible()
        console.take()  # the browser reports the 401 itself
        await page.get_by_label("Key", exact=True).fill(server.key)
        await page.get_by_role("button", name="Use this key").click()
        await expect(page.locator("#model")).not_to_be_empty()
        await page.get_by_role("button", name="Sample clip").click()
        await expect(page.get_by_role("status")).to_have_text("live")
        await eventually(playing)

        [first] = await server.client.sessions()
        await server.client.session(first.id).close()
        await expect(page.get_by_text("a new one begins here")).to_be_visible()
        await expect(page.get_by_role("status")).to_have_text("live")
        assert first.id not in [info.id for info in await server.client.sessions() if info.state == "live"]
        await page.get_by_role("button", name="Stop").click()
        assert console.take() == []
