"""Connections that never come to the point."""

from __future__ import annotations

import asyncio

import pytest

from server.settings import Limits
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import picture

pytestmark = pytest.mark.e2e


async def opened(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))


@pytest.mark.parametrize("limits", [Limits(head_s=0.3)])
async def test_a_head_that_does_not_come_to_its_end(gateway: Served) -> None:
    """Silent, dripping, and dripping after a whole request: each is dropped, and others are served meanwhile."""
    silent, silent_out = await opened(gateway)
    dripping, dripping_out = await opened(gateway)
    second, second_out = await opened(gateway)
    second_out.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    await second.readuntil(b'{"status":"ok"}')

    async def drip(out: asyncio.StreamWriter) -> None:
        for line in (b"GET / HTTP/1.1\r\n", *([b"a: b\r\n"] * 200)):
            out.write(line)
            await asyncio.sleep(0.05)

    drips = [asyncio.create_task(drip(out)) for out in (dripping_out, second_out)]
    assert (await gateway.http.get("/livez")).status_code == 200
    for reader in (silent, dripping, second):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    for task in drips:
        task.cancel()
    for out in (silent_out, dripping_out, second_out):
        out.close()


@pytest.mark.parametrize("limits", [Limits(body_s=0.3, head_s=0.3)])
async def test_a_body_that_does_not_come_to_its_end(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    reader, writer = await opened(gateway)
    head = (
        f"POST /v1/sessions/{session['id']}/media HTTP/1.1\r\nhost: x\r\n"
        f"authorization: {gateway.auth()['authorization']}\r\ncontent-type: image/jpeg\r\ncontent-length: 9999\r\n\r\n"
    )
    writer.write(head.encode() + picture("red")[:50])
    reply = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    assert b" 408 " in reply
    writer.close()


@pytest.mark.parametrize("limits", [Limits(head_s=0.3)])
async def test_a_request_that_takes_long_is_left_alone(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["hm"]
    worker.speaking.clear()
    path = f"/v1/sessions/{session['id']}/questions"
    asked = asyncio.create_task(gateway.http.post(path, json={"question": "what colour?", "id": "q1"}))
    await asyncio.sleep(0.7)  # longer than the limit on heads: what is tested is that nothing happens
    worker.speaking.set()
    assert (await asked).json()["status"] == "done"
