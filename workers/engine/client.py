"""The worker's end of the engine process: starts it, sends commands, hands out pixel slots, brings back events."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from workers.engine.messages import Command, Event, Failed, FrameTaken, Ready, Shutdown, Working
from workers.engine.ring import PixelRing, Pixels
from workers.engine.wire import WireError, event_unpacker, pack

_READ_BYTES = 1 << 16
_NO_SLOT = -1


class EngineDied(Exception):
    """The engine process is gone; every session it held is lost with it. The message says why, as far as is known."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`slots` pictures may be under way at once; `events` may wait to be consumed before the socket is left unread. An
    engine that says nothing for `silence_seconds` once it is ready counts as dead: it speaks every second, or step.
    """

    slots: int = 64
    slot_bytes: int = 4 << 20
    events: int = 4096
    start_seconds: float = 300.0
    stop_seconds: float = 10.0
    silence_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    events_waiting: int
    slots_free: int


class EngineClient:
    """One engine process. Made by `start`; its reading task belongs to the caller's task group.

    After the engine's death every verb raises EngineDied, and so does the iteration over `events`; after `close` that
    iteration simply ends.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, writer: asyncio.StreamWriter, ring: PixelRing, limits: ClientLimits
    ) -> None:
        """For `start` alone."""
        self._process = process
        self._writer = writer
        self._ring = ring
        self._limits = limits
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(limits.events + 1)
        self._free: asyncio.Queue[int] = asyncio.Queue(limits.slots + 1)
        for slot in range(limits.slots):
            self._free.put_nowait(slot)
        self._death: EngineDied | None = None
        self._closing = False
        self._reason = ""
        self._patience: float | None = None  # until it is ready, the wait for that is what has a limit
        self._working: list[str] = []
        self._card: Ready | None = None

    @classmethod
    async def start(
        cls, group: asyncio.TaskGroup, arguments: Sequence[str], limits: ClientLimits | None = None
    ) -> EngineClient:
        """Starts `python -m workers.engine` with `arguments` (`--model ...`) and waits until its model is loaded.

        EngineDied, with the engine's own words, if it cannot start; TimeoutError if it takes too long.
        """
        limits = limits or ClientLimits()
        ring = PixelRing.create(limits.slots, limits.slot_bytes)
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "workers.engine"),
                *("--socket-fd", str(theirs.fileno()), "--ring-fd", str(ring.fd)),
                *("--ring-slots", str(limits.slots), "--ring-slot-bytes", str(limits.slot_bytes)),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), ring.fd),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        client = cls(process, writer, ring, limits)
        task = group.create_task(client._read(reader), name="engine events")
        try:
            async with asyncio.timeout(limits.start_seconds):
                client._card = await client._first_event()
        except BaseException:
            task.cancel()
            raise
        return client

    @property
    def ready(self) -> Ready:
        """What the engine said of itself when its model was loaded."""
        if self._card is None:
            raise RuntimeError("the engine has not started")
        return self._card

    @property
    def working(self) -> Sequence[str]:
        """Ids of the sessions whose work was under way last."""
        return self._working

    @property
    def statistics(self) -> ClientStatistics:
        return ClientStatistics(events_waiting=self._events.qsize(), slots_free=self._free.qsize())

    async def send(self, command: Command) -> None:
        """Hands a command over; waits while the engine's socket is full."""
        self._raise_if_dead()
        try:
            self._writer.write(pack(command))
            await self._writer.drain()
        except ConnectionError as error:
            raise self._death or EngineDied("the engine closed its socket") from error

    async def events(self) -> AsyncIterator[Event]:
        """Everything the engine says, in order; for one consumer."""
        while (event := await self._events.get()) is not None:
            yield event
        self._events.put_nowait(None)
        if not self._closing:
            self._raise_if_dead()

    async def acquire_slot(self) -> int:
        """A free slot of the pixel ring; waits while all are under way. FrameTaken frees it, or `release_slot`."""
        slot = await self._free.get()
        if slot == _NO_SLOT:
            self._free.put_nowait(_NO_SLOT)
            self._raise_if_dead()
        return slot

    def release_slot(self, slot: int) -> None:
        """Gives back a slot that no PushFrame was sent for."""
        self._free.put_nowait(slot)

    def pixels(self, slot: int, height: int, width: int) -> Pixels:
        """Where an acquired slot's picture is written: uint8 [height, width, 3]. ValueError if it does not fit."""
        return self._ring.pixels(slot, height, width)

    async def close(self) -> None:
        """Asks the engine to stop, and makes it stop if it does not within the limit."""
        self._closing = True
        try:
            await self.send(Shutdown())
            async with asyncio.timeout(self._limits.stop_seconds):
                await self._process.wait()
        except (EngineDied, TimeoutError):
            self._kill()
            await self._process.wait()

    async def _first_event(self) -> Ready:
        event = await self._events.get()
        if not isinstance(event, Ready):
            self._raise_if_dead()
            raise EngineDied(f"the engine began with {event}")
        return event

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unpacker = event_unpacker()
        try:
            while data := await self._received(reader):
                for event in unpacker.feed(data):
                    await self._take(event)
        except WireError as error:
            self._reason = str(error)
        except TimeoutError:
            self._reason = f"the engine has said nothing for {self._limits.silence_seconds:g} s"
        finally:
            self._kill()
            status = await self._process.wait()
            self._end(self._reason or f"the engine process ended with status {status}")
        await self._events.put(None)

    async def _take(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._reason = event.message
            return
        if isinstance(event, Working):
            self._working = event.session_ids
            return
        if isinstance(event, Ready):
            self._patience = self._limits.silence_seconds
        if isinstance(event, FrameTaken):
            self._free.put_nowait(event.slot)
        await self._events.put(event)

    async def _received(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes; none at the end, however it came. TimeoutError where an engine at work falls silent."""
        async with asyncio.timeout(self._patience):
            try:
                return await reader.read(_READ_BYTES)
            except ConnectionError:
                return b""

    def _end(self, reason: str) -> None:
        self._death = EngineDied(reason)
        self._free.put_nowait(_NO_SLOT)
        self._writer.close()
        self._ring.close()

    def _kill(self) -> None:
        """After its socket has closed the engine has nothing left to do, whatever state it is in.

        The signal is sent directly: Process.kill may take the status from those who wait for it.
        """
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise self._death
