"""Every form of media as headless Chromium makes it, through a live socket to the lanes.

Chromium is a package of the system's, listed in deploy/system-packages.txt; which encoders it has differs from build to
build, and what one lacks is skipped by name. VP8, VP9, AV1 and Opus are in all of them.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, async_playwright
from websockets.asyncio.client import ClientConnection, connect

from server.media.jobs import VideoCodec
from server.media.sampler import Sampler
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.formats import footage
from tests.server.formats.footage import RATE, TONE_HZ, Shown
from tests.server.formats.sending import Timed, end, same, seen, send
from tests.server.wire import hear, say

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium: .ci/run installs it"),
]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE = Path(__file__).with_name("recorder.html")
HERE = "https://recorder.test/"  # WebCodecs wants a secure page; nothing is fetched from there
PICTURES, SLICE_MS = 25, 150
RECORDINGS = [
    "video/webm;codecs=vp8,opus",
    "video/webm;codecs=vp9",
    "video/webm;codecs=av1,opus",
    "video/webm;codecs=h264",
    "video/mp4;codecs=vp9,opus",
    "video/mp4;codecs=av01.0.04M.08,opus",
    "video/mp4;codecs=avc1.42E01E,mp4a.40.2",
    "video/mp4;codecs=avc1.42E01E,opus",
]
ENCODINGS: list[tuple[VideoCodec, dict[str, Any]]] = [
    ("vp8", {"codec": "vp8"}),
    ("vp9", {"codec": "vp09.00.10.08"}),
    ("av1", {"codec": "av01.0.04M.08"}),
    ("h264", {"codec": "avc1.42E01E", "avc": {"format": "annexb"}}),
    ("h265", {"codec": "hev1.1.6.L93.B0", "hevc": {"format": "annexb"}}),
]
SOUNDS = [
    ("opus", {"codec": "opus", "sampleRate": 48_000, "numberOfChannels": 1}),
    ("aac", {"codec": "mp4a.40.2", "sampleRate": 48_000, "numberOfChannels": 1, "aac": {"format": "adts"}}),
]


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async def serve(route: Route) -> None:
        await route.fulfill(path=PAGE)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            page = await browser.new_page()
            await page.route("**/*", serve)
            await page.goto(HERE)
            yield page
        finally:
            await browser.close()


async def made(page: Page, call: str, *arguments: object) -> list[Timed]:
    """What a function of the page made; skips where this browser has no such encoder."""
    found: list[tuple[float, str]] | None = await page.evaluate(f"given => {call}(...given)", list(arguments))
    if found is None:
        pytest.skip(f"this Chromium cannot encode {arguments[0]}")
    return [(t_ms, base64.b64decode(data)) for t_ms, data in found]


@asynccontextmanager
async def live(gateway: Served, session: dict[str, Any]) -> AsyncIterator[ClientConnection]:
    async with connect(f"{gateway.live_url}?session={session['id']}", additional_headers=gateway.auth()) as socket:
        await hear(socket, "session.ready")
        yield socket


@pytest.mark.parametrize("mime", RECORDINGS)
async def test_slices_of_media_recorder(gateway: Served, worker: FakeWorker, page: Page, mime: str) -> None:
    slices = await made(page, "record", mime, PICTURES, SLICE_MS, "," in mime)
    form = mime.partition(";")[0].partition("/")[2]
    assert len(slices) > 3, "it was cut"
    expected = footage.reference(b"".join(data for _, data in slices))
    assert len(expected) >= PICTURES - 2
    session = await gateway.open(fps=RATE, ingest="complete")
    async with live(gateway, session) as socket:
        newest = await send(socket, form, [(0.0, slices[0][1]), *slices[1:]]) - 1
        await end(socket, newest)
    spaced = _sampled(expected)
    same(await seen(worker, session, len(spaced)), spaced)
    owned = worker.owned[str(session["id"])]
    if "," in mime:
        pcm = b"".join(sound.pcm for sound in owned.sounds)
        assert footage.pitch(pcm[len(pcm) // 4 :]) == pytest.approx(TONE_HZ, abs=3)


@pytest.mark.parametrize(("codec", "config"), ENCODINGS)
async def test_units_of_webcodecs(
    gateway: Served, worker: FakeWorker, page: Page, codec: VideoCodec, config: dict[str, Any]
) -> None:
    units = await made(page, "encode", config, PICTURES)
    assert len(units) == PICTURES
    pictures = footage.decoded(codec, [data for _, data in units])
    session = await gateway.open(fps=RATE, ingest="complete")
    async with live(gateway, session) as socket:
        await end(socket, await send(socket, codec, units) - 1)
    expected = [Shown(t_ms, pixels) for (t_ms, _), pixels in zip(units, pictures, strict=True)]
    same(await seen(worker, session, PICTURES), expected)


@pytest.mark.parametrize(("codec", "config"), SOUNDS)
async def test_sound_of_webcodecs(
    gateway: Served, worker: FakeWorker, page: Page, codec: str, config: dict[str, Any]
) -> None:
    packets = await made(page, "encodeSound", config, 2)
    session = await gateway.open(fps=RATE, ingest="complete")
    async with live(gateway, session) as socket:
        await say(socket, type="track.open", track=0, codec=codec, rate=48_000, channels=1)
        await end(socket, await send(socket, codec, packets) - 1)
    sounds = worker.owned[str(session["id"])].sounds
    assert sum(len(sound.pcm) for sound in sounds) / 32 == pytest.approx(2000, abs=120)
    assert footage.pitch(b"".join(sound.pcm for sound in sounds)) == pytest.approx(TONE_HZ, abs=2)


def _sampled(shown: list[Shown]) -> list[Shown]:
    """Those that a session of the footage's rate samples: a browser's timers jitter."""
    sampler = Sampler(RATE)
    return [picture for picture in shown if sampler.keep(round(picture.t_ms))]
