from __future__ import annotations

import asyncio
import sys

import pytest

from server.settings import Limits, SourceSettings
from tests.server.conftest import OTHER_KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.sources.watching import PATIENT

pytestmark = pytest.mark.e2e

NOWHERE = "rtsp://127.0.0.1:9/live"  # discard: nobody listens
CONFINED = """
import os, socket
from server.sources.messages import Pull
from server.sources.puller import confine
place = dict(scheme="rtsp", host="h", port=1, path="/", user="", password="")
confine(Pull(**place, codecs=[], unit_bytes=1, memory_bytes=1 << 28))
attempts = {
    "tcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda: socket.socketpair(),
    "read": lambda: open("/etc/passwd"),
    "write": lambda: open("/tmp/planted", "w"),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    except OSError as error:
        print(name, error)
    else:
        print(name)
print("done")
"""


@pytest.fixture
def limits() -> Limits:
    return Limits(sources=2, tenant_sources=3)


@pytest.fixture
def source_settings() -> SourceSettings:
    return PATIENT


async def post(gateway: Served, session_id: str, name: str, url: str = NOWHERE) -> tuple[int, str]:
    reply = await gateway.http.post(f"/v1/sessions/{session_id}/sources", json={"name": name, "url": url})
    return reply.status_code, (reply.json()["error"] or {}).get("code", "")


async def test_a_name_is_one_source(gateway: Served, worker: FakeWorker) -> None:
    session_id = (await gateway.open())["id"]
    assert await post(gateway, session_id, "door") == (201, "")
    assert await post(gateway, session_id, "door") == (201, ""), "the same again"
    assert await post(gateway, session_id, "door", NOWHERE + "/2") == (409, "conflict")
    assert (await gateway.http.delete(f"/v1/sessions/{session_id}/sources/door")).status_code == 204
    assert (await gateway.http.delete(f"/v1/sessions/{session_id}/sources/door")).status_code == 404
    assert (await gateway.http.get(f"/v1/sessions/{session_id}/sources/door")).status_code == 404


async def test_sources_are_counted_for_session_and_tenant(gateway: Served, worker: FakeWorker) -> None:
    first, second = [(await gateway.open())["id"] for _ in range(2)]
    assert [await post(gateway, first, name) for name in "abc"] == [(201, ""), (201, ""), (429, "rate_limited")]
    assert [await post(gateway, second, name) for name in "ab"] == [(201, ""), (429, "rate_limited")]
    await gateway.http.delete(f"/v1/sessions/{first}")
    assert await post(gateway, second, "b") == (201, "")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("rtsp://10.0.0.1/", "forbidden_address"),
        ("http://169.254.169.254/latest/", "forbidden_address"),
        ("http://[::ffff:a9fe:a9fe]/", "forbidden_address"),
        ("https://[fd00:ec2::254]/", "forbidden_address"),
        ("rtsp://0x0a000001/", "forbidden_address"),
        ("file:///etc/passwd", "bad_request"),
        ("http://user:se\x00cret@h/", "bad_request"),
    ],
)
async def test_addresses_are_judged_when_they_are_given(
    url: str, code: str, gateway: Served, worker: FakeWorker
) -> None:
    session_id = (await gateway.open())["id"]
    reply = await gateway.http.post(f"/v1/sessions/{session_id}/sources", json={"name": "door", "url": url})
    assert reply.json()["error"]["code"] == code
    assert "cret" not in reply.text
    assert (await gateway.http.get(f"/v1/sessions/{session_id}/sources")).json()["data"] == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "<b>"])
async def test_names_are_plain(name: str, gateway: Served, worker: FakeWorker) -> None:
    session_id = (await gateway.open())["id"]
    assert await post(gateway, session_id, name) == (400, "bad_request")


async def test_sources_are_their_tenants(gateway: Served, worker: FakeWorker) -> None:
    session_id = (await gateway.open())["id"]
    await post(gateway, session_id, "door")
    path = f"/v1/sessions/{session_id}/sources"
    for method, where in (("GET", path), ("GET", f"{path}/door"), ("DELETE", f"{path}/door")):
        assert (await gateway.http.request(method, where, headers=gateway.auth(OTHER_KEY))).status_code == 404
    body = {"name": "yard", "url": NOWHERE}
    assert (await gateway.http.post(path, json=body, headers=gateway.auth(OTHER_KEY))).status_code == 404


async def test_a_closed_session_takes_no_sources(gateway: Served, worker: FakeWorker) -> None:
    session_id = (await gateway.open())["id"]
    await gateway.http.delete(f"/v1/sessions/{session_id}")
    assert (await post(gateway, session_id, "door"))[0] in (404, 410)


async def test_a_puller_reaches_nothing() -> None:
    command = (sys.executable, "-c", CONFINED)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said == b"done\n"
