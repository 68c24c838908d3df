"""Encrypted sources: only from who can prove to be the host."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from server.settings import SourceSettings
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.sources.watching import PATIENT, add, becomes, sees, watched
from tests.server.sources.web_servers import certified, shows, web_server
from tests.server.wire import picture

pytestmark = pytest.mark.e2e


@pytest.fixture
def server_side(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    return certified(tmp_path, "127.0.0.1")


@pytest.fixture
def source_settings(server_side: tuple[ssl.SSLContext, Path]) -> SourceSettings:
    return PATIENT.model_copy(update={"ca_file": server_side[1]})


async def test_an_encrypted_camera(
    gateway: Served, worker: FakeWorker, server_side: tuple[ssl.SSLContext, Path], tmp_path: Path
) -> None:
    other, _ = certified(tmp_path, "127.0.0.2")
    async with web_server(shows(picture("blue")), server_side[0]) as web, web_server(shows(b""), other) as imposter:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", web.url())
            await becomes(socket, "live")
            await sees(socket, "blue")
            await add(gateway, session_id, "other", imposter.url())
            refused = await becomes(socket, "waiting", "other")
            assert "certificate" in refused["message"]
            assert imposter.asked == []
