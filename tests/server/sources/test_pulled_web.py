"""Files and pictures by HTTP: led in, guarded, and never fetched from where nobody may look."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import psutil
import pytest

from server.settings import SourceSettings
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.sources.watching import PATIENT, add, becomes, sees, source, watched
from tests.server.sources.web_servers import guards, redirects, sends, shows, web_server
from tests.server.wire import hear, picture, until, video_file

pytestmark = pytest.mark.e2e


@pytest.fixture
def source_settings() -> SourceSettings:
    return PATIENT


def pullers() -> list[psutil.Process]:
    """The puller processes of this test's gateway."""
    children = psutil.Process(os.getpid()).children()
    return [child for child in children if "server.sources.puller" in child.cmdline()]


async def test_a_file_is_played_to_its_end(gateway: Served, worker: FakeWorker) -> None:
    data = video_file(["red", "red", "blue", "blue"])
    async with web_server(sends(data, "video/mp4")) as web, watched(gateway, ingest="complete") as (session_id, socket):
        await add(gateway, session_id, "clip", web.url("/clip.mp4"))
        await becomes(socket, "live", "clip")
        await becomes(socket, "ended", "clip")
        await sees(socket, "blue")
        found = await source(gateway, session_id, "clip")
        assert (found["state"], found["error"]) == ("ended", None)
        assert len(web.asked) == 1


async def test_a_sequence_of_pictures_is_a_camera(gateway: Served, worker: FakeWorker) -> None:
    challenge = 'Digest realm="cam", nonce="n", qop="auth"'
    async with web_server(guards(shows(picture("green")), challenge, "Digest ")) as web:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", web.url("/mjpeg?a=1", "viewer:secret"))
            await becomes(socket, "live")
            await sees(socket, "green")
            web.hang_up()
            await becomes(socket, "waiting")
            await hear(socket, lambda event: event.get("code") == "discontinuity")
            await becomes(socket, "live")
            assert all(asked.target == "/mjpeg?a=1" for asked in web.asked)
            assert all(asked.headers["host"] == f"127.0.0.1:{web.port}" for asked in web.asked)


@pytest.mark.parametrize("keeps", [True, False])
async def test_single_pictures_are_asked_for_at_the_sessions_rate(
    keeps: bool, gateway: Served, worker: FakeWorker
) -> None:
    challenge = 'Digest realm="cam", nonce="n", qop="auth"'
    snapshots = guards(sends(picture("green"), "image/jpeg"), challenge, "Digest ")
    async with web_server(snapshots, keeps=keeps) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url("/snapshot.jpg", "viewer:secret"))
        await becomes(socket, "live")
        await sees(socket, "green")
        asked = len(web.asked)

        async def more() -> bool:
            return len(web.asked) >= asked + 4

        await until(more)
        found = await source(gateway, session_id, "door")
        assert (found["state"], found["codecs"], found["reconnects"]) == ("live", {"video": "jpeg"}, 0)
        assert len(web.writers) == (2 if keeps else len(web.asked))
        owned = await worker.saw(session_id, lambda owned: len(owned.pictures) >= 4)
        times = [item.t_ms for item in owned.pictures]
        assert times == sorted(set(times))


async def test_a_picture_that_is_none_ends_the_connection(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(sends(b"<html>", "image/jpeg")) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        assert "picture" in (await becomes(socket, "waiting"))["message"]


async def test_a_killed_puller_costs_its_source_alone(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(shows(picture("green"))) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        await becomes(socket, "live")
        (puller,) = pullers()
        await add(gateway, session_id, "yard", web.url())
        await becomes(socket, "live", "yard")
        puller.send_signal(signal.SIGKILL)
        lost = await becomes(socket, "waiting")
        assert lost["message"] == "the process that pulls it was lost"
        await becomes(socket, "live")
        assert (await source(gateway, session_id, "yard"))["reconnects"] == 0


async def test_pullers_end_with_their_sources(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(shows(picture("green"))) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        await becomes(socket, "live")
        assert len(pullers()) == 1
        await gateway.http.delete(f"/v1/sessions/{session_id}/sources/door")

        async def gone() -> bool:
            return not pullers()

        await until(gone)


async def test_passwords_are_proved_once(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(guards(shows(picture("red")), 'Basic realm="x"', "Basic never")) as web:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", web.url(user="viewer:secret"))
            refused = await becomes(socket, "failed")
            assert refused["message"] == "the server refuses this user and password"
            assert len(web.asked) == 2
            proof = "Basic " + base64.b64encode(b"viewer:secret").decode()
            assert [asked.headers.get("authorization") for asked in web.asked] == [None, proof]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "private or reserved"),
        ("http://[::ffff:169.254.169.254]/", "private or reserved"),
        ("http://10.0.0.1/", "private or reserved"),
        ("http://[::1]/", "private or reserved"),
        ("file:///etc/passwd", "pulled by"),
        ("rtsp://127.0.0.1/", "another protocol"),
    ],
)
async def test_a_redirect_is_judged_like_the_first_address(
    location: str, reason: str, gateway: Served, worker: FakeWorker
) -> None:
    async with web_server(redirects(location)) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        refused = await becomes(socket, "failed")
        assert reason in refused["message"]
        assert "169.254" not in refused["message"]


async def test_a_redirect_is_followed_without_the_password(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(shows(picture("blue"))) as there, web_server(redirects(there.url("/live"))) as here:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", here.url(user="viewer:secret"))
            await becomes(socket, "live")
            await sees(socket, "blue")
        assert [asked.target for asked in there.asked] == ["/live"]
        assert "authorization" not in there.asked[0].headers


async def test_redirects_in_a_circle_come_to_an_end(gateway: Served, worker: FakeWorker) -> None:
    async with web_server(redirects("/again")) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        assert (await becomes(socket, "failed"))["message"] == "redirects lead nowhere"
        assert len(web.asked) == 6


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"<html>", "text/html"),
        (b"#EXTM3U", "application/vnd.apple.mpegurl"),
        (b"no video at all" * 100, "video/mp4"),
        (bytes(1000), "application/octet-stream"),
    ],
)
async def test_what_is_no_video_is_not_asked_for_again(
    data: bytes, content_type: str, gateway: Served, worker: FakeWorker
) -> None:
    async with web_server(sends(data, content_type)) as web, watched(gateway) as (session_id, socket):
        await add(gateway, session_id, "door", web.url())
        await becomes(socket, "failed")
        assert len(web.asked) == 1


async def test_no_password_is_logged(
    gateway: Served, worker: FakeWorker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("DEBUG")
    async with web_server(guards(shows(picture("red")), 'Basic realm="x"', "Basic ")) as web:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", web.url("/?token=hidden", "viewer:secret"))
            await becomes(socket, "live")
            listed = (await gateway.http.get(f"/v1/sessions/{session_id}/sources")).text
    said = caplog.text + listed + "".join(str(record.__dict__) for record in caplog.records)
    assert "secret" not in said
    assert "hidden" not in said
