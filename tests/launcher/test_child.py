"""Whatever ends a parent ends its children, with the system's help and without it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from launcher.child import spawn, stop

pytestmark = pytest.mark.e2e

ON_LINUX = sys.platform.startswith("linux")
WAYS = [pytest.param(True, id="guard"), *([pytest.param(False, id="prctl")] if ON_LINUX else [])]

PARENT = """
import asyncio, sys
from launcher.child import spawn

async def main():
    child = await spawn([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
                        guarded=sys.argv[1] == "True")
    await child.wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("guarded", WAYS)
def test_a_child_dies_with_its_killed_parent(guarded: bool) -> None:
    command = [sys.executable, "-c", PARENT, str(guarded)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        family = [child, *psutil.Process(parent.pid).children(recursive=True)]
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.parametrize("guarded", WAYS)
async def test_a_child_is_asked_first(guarded: bool) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True); signal.pause()"
    process = await spawn([sys.executable, "-c", code], guarded=guarded)
    await until_it_catches(process.pid)
    assert await stop(process, seconds=20) == 7


@pytest.mark.parametrize("guarded", WAYS)
async def test_a_deaf_child_is_killed(guarded: bool, tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
    process = await spawn([sys.executable, "-c", code], guarded=guarded)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert await stop(process, seconds=0.3) != 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.parametrize("guarded", WAYS)
async def test_a_childs_status_is_its_own(guarded: bool) -> None:
    process = await spawn([sys.executable, "-c", "raise SystemExit(78)"], guarded=guarded)
    assert await process.wait() == 78


async def test_only_the_main_thread_starts_children() -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(spawn(["true"]))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join)
    assert len(errors) == 1


async def until_it_catches(pid: int) -> None:
    """Until the process, or its child where a guard stands between, has its handler for SIGTERM."""
    mask = 1 << (signal.SIGTERM - 1)

    def caught() -> bool:
        process = psutil.Process(pid)
        innermost = (process.children() or [process])[0]
        status = Path(f"/proc/{innermost.pid}/status")
        if not status.exists():
            return True
        line = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        command = innermost.cmdline()
        return bool(int(line.split()[1], 16) & mask) and "-c" in command and "launcher.guard" not in command

    async with asyncio.timeout(20):
        while not caught():  # noqa: ASYNC110  # the other process has no way to tell
            await asyncio.sleep(0.01)


def test_the_guard_passes_on_how_its_child_was_killed() -> None:
    watched, held = os.pipe()
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-m", "launcher.guard", str(watched), sys.executable, "-c", code]
    assert subprocess.run(command, pass_fds=(watched,), check=False).returncode == 128 + signal.SIGKILL
    os.close(watched)
    os.close(held)


def test_a_guard_that_is_asked_to_end_before_its_child_is_there_hands_that_over_later() -> None:
    watched, held = os.pipe()
    code = """
import os, signal, subprocess, sys
from launcher import guard
start = subprocess.Popen
def asked_meanwhile(*given, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return start(*given, **named)
subprocess.Popen = asked_meanwhile
raise SystemExit(guard.main([sys.argv[1], sys.executable, "-c", "import signal; signal.pause()"]))
"""
    command = [sys.executable, "-c", code, str(watched)]
    assert subprocess.run(command, pass_fds=(watched,), check=False, timeout=20).returncode == 128 + signal.SIGTERM
    os.close(held)
    os.close(watched)
