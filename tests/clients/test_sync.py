"""The blocking client: the same calls, from a thread without an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

import longlook_client as lib
from longlook_client import Client
from tests.clients.fake_gateway import KEY, FakeGateway

pytestmark = pytest.mark.unit

JPEG = b"\xff\xd8\xff\xe0 picture"


def watch(url: str, told: list[str]) -> None:
    with Client(url, KEY) as client, client.create_session(fps=1) as session:
        with session.live() as live:
            assert live.send_picture(JPEG, 0.5)
            answer = live.ask("what?", id="q1")
            told.extend(delta.text for delta in answer)
            told.append(answer.result().text)
            live.end_media()
    assert not live.connected


async def test_a_whole_session_without_a_loop(gateway: FakeGateway) -> None:
    told: list[str] = []
    watching = asyncio.create_task(asyncio.to_thread(watch, gateway.url, told))
    peer = await gateway.peer()
    assert (await peer.hears_chunk())[16:] == JPEG
    await peer.hears("question.create")
    await peer.say("question.accepted", id="q1")
    await peer.say("answer.delta", id="q1", index=0, text="yes", token_ids=[1])
    await peer.say("answer.done", id="q1", text="yes", finish_reason="stop")
    await peer.hears("media.end")
    await watching
    assert told == ["yes", "yes"]
    assert [(method, path) for method, path, _, _ in gateway.requests][-1] == ("DELETE", "/v1/sessions/s1")
    assert not any(thread.name == "longlook-client" for thread in threading.enumerate())


async def test_refused_socket_raises_on_entering(gateway: FakeGateway) -> None:
    def enter() -> None:
        with Client(gateway.url, KEY) as client, client.create_session() as session:
            with pytest.raises(lib.NotFoundError), session.live():
                pytest.fail("must not be entered")

    gateway.refusals = [(404, "not_found")]
    await asyncio.to_thread(enter)
