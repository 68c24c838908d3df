"""Streams through sockets that drop, gateways that change and decoders that die."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from server.media.decoders import Nursery
from server.media.jobs import StreamForm, VideoCodec
from tests.server.conftest import KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.formats import footage
from tests.server.formats.footage import RATE, Shown
from tests.server.formats.sending import PERIOD_MS, Timed, end, same, seen, send
from tests.server.processes import gateway_process
from tests.server.wire import Event, hear

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AUTH = {"authorization": f"Bearer {KEY}"}
KINDS: tuple[tuple[str, StreamForm | None, VideoCodec], ...] = (
    ("h264", None, "h264"),
    ("vp8", None, "vp8"),
    ("webm", "webm", "vp8"),
    ("mp4", "mp4", "h264"),
)


def footage_of(form: StreamForm | None, codec: VideoCodec) -> tuple[list[Timed], list[Shown]]:
    """Thirty pictures with a key frame every ten, as chunks, and their reference decode."""
    if form is None:
        units = footage.units(codec, range(30), key_every=10)
        timed = [(PERIOD_MS * number, unit) for number, unit in enumerate(units)]
        pictures = footage.decoded(codec, units)
        return timed, [Shown(PERIOD_MS * number, pixels) for number, pixels in enumerate(pictures)]
    data = footage.stream(form, codec, None, 30, key_every=10, fragment_ms=300)
    pieces = list(footage.cut(data, 5, longest=len(data) // 15))
    return [(3000 * number / len(pieces), piece) for number, piece in enumerate(pieces)], footage.reference(data)


@asynccontextmanager
async def live(url: str, session: dict[str, Any], token: str = "") -> AsyncIterator[tuple[ClientConnection, Event]]:
    query = f"{url}?session={session['id']}" + (f"&token={token}" if token else "")
    async with connect(query, additional_headers={} if token else AUTH) as socket:
        yield socket, await hear(socket, "session.ready")


async def all_seen(worker: FakeWorker, session: dict[str, Any], expected: list[Shown]) -> list[Shown]:
    """What the worker saw, once it has seen the last picture."""
    last = expected[-1].t_ms - PERIOD_MS / 2
    owned = await worker.saw(session["id"], lambda owned: bool(owned.pictures) and owned.pictures[-1].t_ms > last)
    return await seen(worker, session, len(owned.pictures))


def goes_on(found: list[Shown], expected: list[Shown]) -> None:
    """There is one gap, and decoding goes on at the next key frame after it."""
    gaps = [later.t_ms - earlier.t_ms for earlier, later in pairwise(found)]
    before = gaps.index(max(gaps)) + 1
    assert 10 <= len(found) - before < 20
    same(found, [*expected[:before], *expected[before - len(found) :]])


@pytest.mark.parametrize(("name", "form", "codec"), KINDS)
async def test_a_socket_that_drops_loses_nothing(
    gateway: Served, worker: FakeWorker, name: str, form: StreamForm | None, codec: VideoCodec
) -> None:
    session = await gateway.open(fps=RATE, ingest="complete")
    chunks, expected = footage_of(form, codec)
    half = len(chunks) // 2
    async with live(gateway.live_url, session) as (socket, ready):
        await send(socket, name, chunks[:half])
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] >= half - 4)
    async with live(gateway.live_url, session, ready["resume_token"]) as (socket, _):
        await send(socket, name, chunks[half - 3 :], first=half - 3)
        await end(socket, len(chunks) - 1)
    same(await seen(worker, session, 30), expected)


@pytest.mark.parametrize(("name", "form", "codec"), KINDS)
async def test_a_decoder_that_dies_costs_the_pictures_up_to_the_next_key_frame(
    gateway: Served, worker: FakeWorker, name: str, form: StreamForm | None, codec: VideoCodec
) -> None:
    session = await gateway.open(fps=RATE, ingest="complete")
    chunks, expected = footage_of(form, codec)
    third = len(chunks) // 3 + 1
    nursery: Nursery = gateway.server._app.state.gateway.nursery
    async with live(gateway.live_url, session) as (socket, _):
        await send(socket, name, chunks[:third])
        await hear(socket, lambda e: e["type"] == "media.ack" and e["sequence"] == third - 1)
        [pid] = nursery._open
        os.kill(pid, signal.SIGKILL)
        await send(socket, name, chunks[third:], first=third)
        notice = await hear(socket, lambda e: e["type"] == "notice")
        assert (notice["code"], notice["data"]) == ("need_keyframe", {"track": 0})
        await end(socket, len(chunks) - 1)
    goes_on(await all_seen(worker, session, expected), expected)


@pytest.mark.parametrize(("name", "form", "codec"), [KINDS[0], KINDS[2], KINDS[3]])
async def test_another_gateway_takes_a_stream_up(
    valkey_url: str, worker: FakeWorker, name: str, form: StreamForm | None, codec: VideoCodec
) -> None:
    chunks, expected = footage_of(form, codec)
    third = len(chunks) // 3 + 1
    with gateway_process(valkey_url) as one, gateway_process(valkey_url) as other:
        async with httpx.AsyncClient(base_url=one.url, headers=AUTH) as http:
            session = (await http.post("/v1/sessions", json={"fps": RATE, "ingest": "complete"})).json()
        async with live(one.live_url, session) as (socket, ready):
            await send(socket, name, chunks[:third])
            newest_ms = int(chunks[third - 1][0])
            await hear(socket, lambda e: e["type"] == "session.health" and e["session_time_ms"] >= newest_ms)
        async with live(other.live_url, session, ready["resume_token"]) as (socket, again):
            assert again["resumed"]
            await send(socket, name, chunks[third:], first=third)
            notice = await hear(socket, lambda e: e["type"] == "notice")
            assert (notice["code"], notice["data"]) == ("need_keyframe", {"track": 0})
            await end(socket, len(chunks) - 1)
        goes_on(await all_seen(worker, session, expected), expected)
