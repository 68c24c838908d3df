import asyncio
import sys
from pathlib import Path

import pytest

from launcher import supervisor
from launcher.supervisor import CannotStart, Program, keep_running

pytestmark = pytest.mark.e2e

COUNT = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x'); raise SystemExit(int(sys.argv[2]))"


def counting(path: Path, status: int) -> Program:
    return Program("counter", [sys.executable, "-c", COUNT, str(path), str(status)])


async def test_what_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    starts = tmp_path / "starts"
    task = asyncio.create_task(keep_running(counting(starts, 1)))
    async with asyncio.timeout(20):
        while not starts.exists() or len(starts.read_text()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_what_cannot_start_is_given_up(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with pytest.raises(CannotStart, match="counter"):
        await keep_running(counting(starts, 78))
    assert starts.read_text() == "x"


async def test_cancelling_ends_the_process(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    code = (
        "import pathlib, signal, sys\n"
        "signal.signal(15, lambda *_: (pathlib.Path(sys.argv[1]).touch(), sys.exit(0)))\n"
        "pathlib.Path(sys.argv[1] + '.ready').touch()\n"
        "signal.pause()"
    )
    task = asyncio.create_task(keep_running(Program("sleeper", [sys.executable, "-c", code, str(ended)], stop_s=20)))
    async with asyncio.timeout(20):
        while not (tmp_path / "ended.ready").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert ended.exists()
