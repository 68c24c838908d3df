"""The gateway's side of its decoder processes: start one, give it jobs, kill it when it misses a deadline."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import BadMedia, LonglookError, NoSandbox, NoVideo, TooLarge, UnsupportedMedia
from server.media.jobs import PREFIX, Done, Failed, Job, Result, Setup, decode_result, framed
from server.media.nursery import MESSAGE_BYTES, Kill, Reply, Spawn, decode_reply, encode

logger = logging.getLogger(__name__)

REPLY_DEADLINE_S = 10.0
STOP_DEADLINE_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


REFUSALS: dict[str, type[LonglookError]] = {
    error.code: error for error in (BadMedia, NoVideo, TooLarge, UnsupportedMedia)
}


class DecoderLost(Exception):
    """The decoder process crashed, hung past its deadline, or spoke nonsense; it has been killed."""


def refusal(failed: Failed) -> LonglookError:
    """What a decoder's refusal is to the client."""
    return REFUSALS.get(failed.code, BadMedia)(failed.message)


class Nursery:
    """Forks decoders. Its own process is started on entry, and again whenever it is found dead.

    Args:
        unsafe: fork decoders without a sandbox; otherwise none where the system has no sandbox.
    """

    def __init__(self, *, unsafe: bool = False) -> None:
        self._unsafe = unsafe
        self._lock = asyncio.Lock()
        self._forker: _Forker | None = None
        self._open: set[int] = set()
        self.restarts = 0
        self.lacking = ""  # why this system has no sandbox, where it has none

    def check(self) -> None:
        """Raises NoSandbox where no decoder may be started here."""
        if self.lacking and not self._unsafe:
            advice = "install libseccomp 2.5 or newer on Linux, or, if all senders are trusted, set --unsafe-decoder"
            raise NoSandbox(f"media is refused, for decoders cannot be confined here ({self.lacking}): {advice}")

    def __len__(self) -> int:
        """Decoders that were spawned and not closed yet."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        self._forker = await asyncio.to_thread(_Forker, unsafe=self._unsafe)
        await self.kill(0)  # nobody: the reply says that the libraries are loaded
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def spawn(self, setup: Setup, file: int | None = None) -> Decoder:
        """A fresh decoder process; ``file`` is a descriptor that it inherits (the caller keeps its own copy).

        Raises:
            DecoderLost: no process can be had.
            NoSandbox: none may be started here.
        """
        self.check()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                attached = [theirs.fileno()] + ([] if file is None else [file])
                pid = await self._ask(Spawn(setup, file is not None), attached)
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        self._open.add(pid)
        return Decoder(self, pid, reader, writer)

    def closed(self, pid: int) -> None:
        """The gateway has hung up on a decoder."""
        self._open.discard(pid)

    async def kill(self, pid: int) -> None:
        await self._ask(Kill(pid), [])

    async def _ask(self, request: Spawn | Kill, descriptors: list[int]) -> int:
        async with self._lock:
            if self._forker is None or not self._forker.alive:
                self.restarts += 1
                await self._stop()
                self._forker = await asyncio.to_thread(_Forker, unsafe=self._unsafe)
            try:
                reply = await self._forker.ask(request, descriptors)
            except (OSError, TimeoutError, ValueError) as error:
                said = await self._stop()  # half a conversation cannot be taken up again
                raise DecoderLost(": ".join(["the decoders' nursery does not answer", *said])) from error
            self.lacking = reply.lacking
            return reply.pid

    async def _stop(self) -> list[str]:
        """Ends the nursery's process, if there is one; what it died of, where it says so."""
        forker, self._forker = self._forker, None
        return [] if forker is None else await asyncio.to_thread(forker.stop)


class _Forker:
    """One run of the nursery's process, and the socket to it."""

    def __init__(self, *, unsafe: bool) -> None:
        self._owed = 0  # replies that nobody waited for to the end
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", "server.media.nursery", str(theirs.fileno()), *(["unsafe"] if unsafe else [])],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until its libraries are loaded
                cwd=ROOT,
                env={"PATH": os.defpath, "MALLOC_ARENA_MAX": "1"},  # the gateway's environment holds keys
                start_new_session=True,  # a Ctrl+C in the terminal is the gateway's to handle
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, request: Spawn | Kill, descriptors: list[int]) -> Reply:
        async with asyncio.timeout(REPLY_DEADLINE_S):
            while self._owed:
                await self._reply()
            socket.send_fds(self._control, [encode(request)], descriptors)
            self._owed += 1
            return decode_reply(await self._reply())

    async def _reply(self) -> bytes:
        reply = await asyncio.get_running_loop().sock_recv(self._control, MESSAGE_BYTES)
        self._owed -= 1
        return reply

    def stop(self) -> list[str]:
        """Hang up, which ends the nursery and all its decoders; wait for it. The last line that it wrote, if any."""
        self._control.close()
        try:
            _, said = self._process.communicate(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, said = self._process.communicate()
        return said.decode(errors="replace").splitlines()[-1:]


class Decoder:
    """One decoder process. Jobs are given one at a time; a lost decoder stays lost."""

    def __init__(self, nursery: Nursery, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._nursery = nursery
        self._reader = reader
        self._writer = writer

    async def run(self, job: Job, deadline_s: float) -> AsyncIterator[Result]:
        """The job's results as they come, the last of them Done or Failed.

        Raises:
            DecoderLost: the process ended, or was silent for ``deadline_s`` while its results were being waited for.
        """
        try:
            async with asyncio.timeout(deadline_s):
                self._writer.write(framed(job))
                await self._writer.drain()
            while True:
                async with asyncio.timeout(deadline_s):
                    (length,) = PREFIX.unpack(await self._reader.readexactly(PREFIX.size))
                    result = decode_result(await self._reader.readexactly(length))
                yield result
                if isinstance(result, Done | Failed):
                    return
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            await self.kill()
            raise DecoderLost(f"the decoder was lost: {type(error).__name__}") from error

    async def kill(self) -> None:
        """End the process whatever it is doing."""
        await self.close()
        await self._nursery.kill(self.pid)

    async def close(self) -> None:
        """Hang up; an idle decoder ends by itself."""
        self._nursery.closed(self.pid)
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            logger.debug("decoder socket was closed already")
