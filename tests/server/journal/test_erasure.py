"""Patterns planted in a session's media, questions and answers: nowhere readable on disk, and gone with the session."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from server.journal.entries import Kind
from server.journal.recording import Recording
from server.journal.vault import KeyMissing, Vault
from server.settings import JournalSettings
from tests.server.conftest import Served
from tests.server.fake_worker import FakeWorker
from tests.server.journal.shelf import SERVER_KEY
from tests.server.wire import H264, PNG, answer, chunk, h264_units, picture, until, video_file

pytestmark = pytest.mark.e2e

SOURCE = random.Random(20261123)
NAMES = ("question", "answer", "instructions", "metadata")
WORDS = {name: f"planted-{name}-{SOURCE.randbytes(12).hex()}" for name in NAMES}
MEDIA = {name: bytes(SOURCE.randrange(1, 256) for _ in range(48)) for name in ("png", "unit", "file")}
PATTERNS = {**{name: word.encode() for name, word in WORDS.items()}, **MEDIA}


@pytest.fixture
def journal_settings(tmp_path: Path) -> JournalSettings:
    return JournalSettings(dir=tmp_path / "journal", key=SecretStr(SERVER_KEY.hex()), segment_bytes=20_000)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def planted_png() -> bytes:
    out, note = io.BytesIO(), PngImagePlugin.PngInfo()
    note.add(b"prVt", MEDIA["png"])
    Image.new("RGB", (80, 60), "red").save(out, "PNG", pnginfo=note)
    assert MEDIA["png"] in out.getvalue()
    return out.getvalue()


def planted_unit() -> bytes:
    sei = b"\0\0\1\x06\x05\x40" + bytes(16) + MEDIA["unit"] + b"\x80"
    return h264_units(["green"])[0] + sei


def planted_file() -> bytes:
    data = video_file(["blue"] * 2)
    return data + (len(MEDIA["file"]) + 8).to_bytes(4, "big") + b"free" + MEDIA["file"]


def files(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes() + path.name.encode()


def open_files() -> Iterator[bytes]:
    """Those that this process, the gateway, holds open, those without a name among them."""
    for number in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{number}")
        if path.is_file():
            yield path.read_bytes()


async def bus_values(worker: FakeWorker) -> list[bytes]:
    """Every key of the server, dumped as it is, names included."""
    command = worker.bus._connection.command
    values: list[bytes] = []
    for key in await command("KEYS", "*"):
        values += [key, repr(await _value(worker, key)).encode("latin-1")]
    return values


async def _value(worker: FakeWorker, key: bytes) -> Any:
    command = worker.bus._connection.command
    read = {
        b"string": ("GET", key),
        b"hash": ("HGETALL", key),
        b"stream": ("XRANGE", key, "-", "+"),
        b"zset": ("ZRANGE", key, 0, -1),
        b"set": ("SMEMBERS", key),
        b"list": ("LRANGE", key, 0, -1),
    }
    kind = await command("TYPE", key)
    return await command(*read[kind if isinstance(kind, bytes) else kind.encode()])


def seen(values: list[bytes]) -> set[str]:
    """Names of the patterns that are in any of the values, as bytes or as Python writes them."""
    forms = {name: (pattern, repr(pattern)[2:-1].encode("latin-1")) for name, pattern in PATTERNS.items()}
    return {name for name, looks in forms.items() for value in values if any(look in value for look in looks)}


async def live_through(gateway: Served, worker: FakeWorker, temporary: Path) -> tuple[dict[str, Any], set[str]]:
    """A session with every pattern in it; what was seen of them in temporary files meanwhile."""
    worker.words = [WORDS["answer"]]
    said = {"instructions": WORDS["instructions"], "metadata": {"word": WORDS["metadata"]}}
    session = await gateway.open(**said, store="forever", fps=4, ingest="complete")
    path = f"/v1/sessions/{session['id']}"
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        await socket.send(chunk(PNG, 0, 0.0, planted_png()))
        await socket.send(chunk(H264, 0, 1.0, planted_unit(), track=1))
        assert WORDS["answer"] in (await answer(socket, WORDS["question"]))["text"]
        worker.reading.clear()  # the file's pictures wait, and the file with them
        posted = await gateway.http.post(
            f"{path}/media", content=planted_file(), headers={"content-type": "video/mp4"}, params={"pace": "realtime"}
        )
        assert posted.status_code == 202, posted.text
        meanwhile = seen([*files(temporary), *open_files()])
        worker.reading.set()
    return session, meanwhile


async def everything_stored(gateway: Served, session: dict[str, Any]) -> None:
    async def enough() -> bool:
        holds = (await gateway.http.get(f"/v1/sessions/{session['id']}/recording")).json()["holds"]
        counts = {kind: sum(e["records"] for e in holds if e["kind"] == kind) for kind in ("media", "frames", "texts")}
        return all(counts[kind] >= least for kind, least in {"media": 2, "frames": 4, "texts": 2}.items())

    await until(enough)


async def test_nothing_planted_can_be_read_before_and_nothing_is_left_after(
    gateway: Served, worker: FakeWorker, journal_settings: JournalSettings, temporary: Path
) -> None:
    assert journal_settings.dir is not None
    session, meanwhile = await live_through(gateway, worker, temporary)
    await everything_stored(gateway, session)
    assert "file" in meanwhile  # so that its absence later says something
    assert set(NAMES) <= seen(await bus_values(worker))

    # A stolen disk: data and sealed keys, but not the server's key.
    assert seen(list(files(journal_settings.dir))) == set()
    names = " ".join(path.name for path in journal_settings.dir.rglob("*"))
    assert "alice" not in names
    # With the server's key everything is there to be read.
    vault = Vault(journal_settings.dir / "keys", [SERVER_KEY])
    recording = Recording(journal_settings.dir / "data" / session["id"], vault.open(session["id"]))
    kept = [record.body for kind in (Kind.MEDIA, Kind.TEXT) for record in recording.records(kind, None, 0, 1 << 52)]
    assert seen(kept) == {"png", "unit", "question", "answer"}

    copy = {path.name: path.read_bytes() for path in journal_settings.dir.rglob("*") if path.suffix == ".seg"}
    assert (await gateway.http.delete(f"/v1/sessions/{session['id']}")).status_code == 204
    await until(lambda: _closed(gateway, session))
    assert list(files(journal_settings.dir)) == []
    assert list(journal_settings.dir.rglob(f"*{session['id']}*")) == []
    with pytest.raises(KeyMissing):
        vault.open(session["id"])
    assert seen([*copy.values()]) == set()  # a backup of the data alone is noise for ever

    async def none_left() -> bool:
        return not seen([*await bus_values(worker), *files(temporary), *open_files()])

    await until(none_left)


async def _closed(gateway: Served, session: dict[str, Any]) -> bool:
    return bool((await gateway.http.get(f"/v1/sessions/{session['id']}")).json()["state"] == "closed")


async def test_deleting_while_media_still_come_in_leaves_nothing_either(
    gateway: Served, worker: FakeWorker, journal_settings: JournalSettings
) -> None:
    assert journal_settings.dir is not None
    session = await gateway.open(store={"retention_hours": 1}, instructions=WORDS["instructions"])
    async with connect(f"{gateway.live_url}?session={session['id']}&token={session['connect_token']}") as socket:
        with contextlib.suppress(ConnectionClosed):  # the gateway hangs up in the middle
            for number in range(40):
                await socket.send(chunk(PNG, number, number / 20, picture("red", "PNG")))
                if number == 20:
                    assert (await gateway.http.delete(f"/v1/sessions/{session['id']}")).status_code == 204
    await until(lambda: _closed(gateway, session))
    assert list(files(journal_settings.dir)) == []
    assert seen(await bus_values(worker)) == set()
