"""A real RTSP server that is killed and restarted, frozen, and slow: told, and taken up again without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.settings import SourceSettings
from tests.faults.proxy import FaultProxy
from tests.faults.shaping import Faults
from tests.server.conftest import Served, free_port
from tests.server.fake_worker import FakeWorker
from tests.server.sources.cameras import camera, h264, h265, heavy_jpeg, jpeg, started
from tests.server.sources.watching import IMPATIENT, PATIENT, add, becomes, sees, source, watched
from tests.server.wire import hear, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def source_settings(request: pytest.FixtureRequest) -> SourceSettings:
    chosen: SourceSettings = getattr(request, "param", IMPATIENT)
    return chosen


@pytest.mark.parametrize("source_settings", [PATIENT], indirect=True, ids=["patient"])
@pytest.mark.parametrize(
    ("codec", "units"), [("h264", h264("green")), ("jpeg", jpeg("green")), ("h265", h265("green"))]
)
async def test_a_camera_is_watched(
    codec: str, units: list[bytes], gateway: Served, worker: FakeWorker, tmp_path: Path
) -> None:
    with camera(tmp_path, units, port=free_port(), codec=codec) as door:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", door.url)
            await becomes(socket, "live")
            await sees(socket, "green")
            found = await source(gateway, session_id, "door")
    assert (found["state"], found["codecs"], found["reconnects"]) == ("live", {"video": codec}, 0)
    assert found["last_frame_age_ms"] is not None


async def test_a_killed_camera_is_waited_for(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with camera(tmp_path, h264("green"), port=free_port()) as door:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", door.url)
            await becomes(socket, "live")
            await sees(socket, "green")
            door.kill()
            lost = await becomes(socket, "waiting")
            assert "connection" in lost["message"]
            door.show(h264("blue"))
            await started(door)
            gap = await hear(socket, lambda event: event.get("code") == "discontinuity")
            assert gap["data"]["source"] == "door"
            assert gap["data"]["gap_ms"] > 0
            await becomes(socket, "live")
            await sees(socket, "blue")
            found = await source(gateway, session_id, "door")
    assert found["state"] == "live"
    assert found["error"] is None
    assert found["reconnects"] >= 1


async def test_a_frozen_camera_is_told(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with camera(tmp_path, h264("green"), port=free_port()) as door:
        async with watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", door.url)
            await becomes(socket, "live")
            door.freeze()
            await becomes(socket, "frozen")
            door.thaw()
            await becomes(socket, "live")
            door.freeze()
            await becomes(socket, "frozen")
            await becomes(socket, "waiting")
            door.thaw()
            await becomes(socket, "live")
            await sees(socket, "green")


async def test_a_slow_camera_is_told(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with camera(tmp_path, heavy_jpeg(), port=free_port(), codec="jpeg") as door:
        async with FaultProxy(("127.0.0.1", door.port)) as proxy, watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", f"rtsp://127.0.0.1:{proxy.port}/live")
            await becomes(socket, "live")
            proxy.downstream = Faults(bytes_per_s=60_000)
            slow = await becomes(socket, "slow")
            assert slow["message"] == "its media come late"
            assert (await source(gateway, session_id, "door"))["lag_ms"] > 600
            proxy.downstream = Faults()
            await becomes(socket, "live")


async def test_two_cameras_in_one_session(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with (
        camera(tmp_path, h264("green"), port=free_port()) as door,
        camera(tmp_path, jpeg("red"), port=free_port(), codec="jpeg") as yard,
    ):
        async with watched(gateway) as (session_id, socket):
            first = await add(gateway, session_id, "yard", yard.url)
            await sees(socket, "red")
            second = await add(gateway, session_id, "door", door.url)
            assert first["track"] != second["track"]
            # Both send at one rate: whose picture is newest when a question comes can be the same one's every time.
            await worker.saw(session_id, lambda owned: {colour for _, colour in owned.seen[-10:]} == {"green", "red"})
            yard.kill()
            await becomes(socket, "waiting", "yard")
            await sees(socket, "green")
            reply = await gateway.http.delete(f"/v1/sessions/{session_id}/sources/yard")
            assert reply.status_code == 204
            listed = (await gateway.http.get(f"/v1/sessions/{session_id}/sources")).json()["data"]
            assert [(entry["name"], entry["state"]) for entry in listed] == [("door", "live")]


async def test_a_camera_asks_who_is_there(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with camera(tmp_path, h264("green"), port=free_port(), credentials=("viewer", "pass:word")) as door:
        async with watched(gateway) as (session_id, socket):
            url = door.url.replace("//", "//viewer:pass%3Aword@")
            added = await add(gateway, session_id, "door", url)
            assert added["url"] == door.url
            await becomes(socket, "live")
            await add(gateway, session_id, "guess", door.url.replace("//", "//viewer:wrong@"))
            refused = await becomes(socket, "failed", "guess")
            assert refused["message"] == "the camera refuses this user and password"
            listed = (await gateway.http.get(f"/v1/sessions/{session_id}/sources")).text
            assert "word" not in listed.replace("password", "")


async def test_a_camera_is_let_go_with_its_session(gateway: Served, worker: FakeWorker, tmp_path: Path) -> None:
    with camera(tmp_path, h264("green"), port=free_port()) as door:
        async with FaultProxy(("127.0.0.1", door.port)) as proxy, watched(gateway) as (session_id, socket):
            await add(gateway, session_id, "door", f"rtsp://127.0.0.1:{proxy.port}/live")
            await becomes(socket, "live")
            await gateway.http.delete(f"/v1/sessions/{session_id}")

            async def gone() -> bool:
                return not proxy._links

            await until(gone)
