"""Child processes that cannot outlive their parent, whatever ends it.

Linux kills them itself (PR_SET_PDEATHSIG, tied to the thread that forks: spawn from the main thread). Elsewhere a small
guard process stands between, which sees its pipe from the parent close.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

PR_SET_PDEATHSIG = 1


async def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
    guarded: bool | None = None,
) -> asyncio.subprocess.Process:
    """Starts ``command`` bound to the life of this process, with the descriptors ``inherited``.

    ``guarded`` forces or forbids the guard process.

    RuntimeError outside of the main thread; OSError if the program cannot be started.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("child processes are started from the main thread alone")
    if guarded is None:
        guarded = not sys.platform.startswith("linux")
    if guarded:
        return await _spawn_guarded(command, environment, inherited)
    return await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=tuple(inherited),
        preexec_fn=_die_with(os.getpid()),  # runs prctl alone, between fork and exec
    )


async def stop(process: asyncio.subprocess.Process, *, seconds: float) -> int:
    """SIGTERM, and SIGKILL if that does not end it within ``seconds``. Returns the exit status."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()


async def _spawn_guarded(
    command: Sequence[str], environment: Mapping[str, str] | None, inherited: Sequence[int]
) -> asyncio.subprocess.Process:
    watched, held = os.pipe()
    try:
        # The parent's end is inherited by nobody, so that it closes with the parent.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "launcher.guard", str(watched), *command),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(watched, *inherited),
        )
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(watched)
    task = asyncio.get_running_loop().create_task(process.wait())
    task.add_done_callback(lambda _: os.close(held))
    return process


def _die_with(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return bind
