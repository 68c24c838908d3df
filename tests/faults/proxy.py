"""A TCP proxy that misbehaves on purpose: what lies between a client and a gateway, or a process and its Redis.

    async with FaultProxy(("127.0.0.1", 6379), seed=7) as proxy:
        bus = await Bus.connect(f"redis://127.0.0.1:{proxy.port}", retention)
        proxy.downstream = Faults(latency_s=0.2, jitter_s=0.05, bytes_per_s=625_000)
        proxy.lose_replies(1)
        proxy.pause()

Faults may be changed at any time and hold for bytes read from then on. The context owns every task and socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.faults.shaping import Faults, Piece, Shaper

Address = tuple[str, int] | Path
Direction = Literal["up", "down"]
READ_BYTES = 64 << 10
PIECES_WAITING = 64  # of one direction of one connection; beyond that the sender is not read
CONNECT_S = 5.0


class Broken(Exception):
    """This connection is over: both its ends get a reset."""


@dataclass(kw_only=True)
class Traffic:
    """What the proxy has seen and done so far."""

    connections: int = 0
    refused: int = 0
    resets: int = 0
    replies_lost: int = 0
    taken: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})  # bytes read from the sender
    given: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})  # bytes written to the receiver


@dataclass(eq=False)
class End:
    """One of the two sockets of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Closes with a TCP RST, so that the other side sees an error and no orderly end."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def aclose(self) -> None:
        """Returns once the socket is closed."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass(eq=False)
class Link:
    """A client's connection and the one made for it."""

    number: int
    client: End
    target: End
    task: asyncio.Task[None]
    mute: bool = False  # replies are read and thrown away


class FaultProxy:
    """Listens on 127.0.0.1 and carries each connection to ``target``, with the faults asked for.

    ``target`` may be changed: connections made from then on go there. ``upstream`` are the faults from the client to
    the target, ``downstream`` those on the way back.
    """

    def __init__(self, target: Address, *, seed: int = 0) -> None:
        self.target = target
        self.seed = seed
        self.upstream = Faults()
        self.downstream = Faults()
        self.traffic = Traffic()
        self.refusing = False  # new connections are reset at once
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pulse = asyncio.Event()
        self._leaving = False
        self._replies_to_lose = 0
        self._losing_mutes = False

    async def __aenter__(self) -> FaultProxy:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._leaving = True
        await asyncio.sleep(0)  # every task has begun by now, and so will close what it was given
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)  # an error of the body passes as it is, not in a group

    def pause(self) -> None:
        """Nothing is handed on any more, in either direction, until ``resume``; senders feel it as backpressure."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def reset(self) -> None:
        """Resets every connection there is now."""
        for link in list(self._links):
            self._break(link)
            link.task.cancel()

    def lose_replies(self, count: int, *, mute: bool = False) -> None:
        """The next ``count`` reads from the target are thrown away, after the target did what it was asked.

        Then the connection is reset, or, with ``mute``, stays open and silent: half a reply would be no fault of the
        network that TCP lets through.
        """
        self._replies_to_lose = count
        self._losing_mutes = mute

    async def until(self, reached: Callable[[Traffic], bool], *, seconds: float = 10.0) -> None:
        """Waits for the traffic to be so. TimeoutError after ``seconds``."""
        async with asyncio.timeout(seconds):
            while not reached(self.traffic):
                await self._pulse.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._leaving:
            writer.transport.abort()
            return
        self.traffic.connections += 1
        task = self._group.create_task(self._serve(self.traffic.connections, End(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, number: int, client: End) -> None:
        try:
            target = None if self.refusing else await self._reach()
            if target is None:
                self.traffic.refused += 1
                client.reset()
                self._changed()
                return
            try:
                await self._join(number, client, target)
            finally:
                await target.aclose()
        finally:
            await client.aclose()

    async def _reach(self) -> End | None:
        """A connection to the target, or None where there is nobody."""
        try:
            async with asyncio.timeout(CONNECT_S):
                return await _connect(self.target)
        except OSError:  # TimeoutError is one
            return None

    async def _join(self, number: int, client: End, target: End) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link(number, client, target, task)
        self._links.add(link)
        self._changed()
        try:
            await self._carry(link)
        except* (Broken, OSError):
            self._break(link)
        finally:
            self._links.discard(link)

    async def _carry(self, link: Link) -> None:
        async with asyncio.TaskGroup() as group:
            for direction, source, sink in _ways(link):
                pieces: asyncio.Queue[Piece | None] = asyncio.Queue(PIECES_WAITING)
                group.create_task(self._take(link, direction, source.reader, pieces))
                group.create_task(self._give(direction, pieces, sink.writer))

    async def _take(
        self, link: Link, direction: Direction, reader: asyncio.StreamReader, pieces: asyncio.Queue[Piece | None]
    ) -> None:
        shaper = Shaper(f"{self.seed}:{link.number}:{direction}")
        while data := await reader.read(READ_BYTES):
            self.traffic.taken[direction] += len(data)
            self._changed()
            if direction == "down" and self._lost(link):
                continue
            faults = self.upstream if direction == "up" else self.downstream
            for piece in shaper.shape(data, faults, asyncio.get_running_loop().time()):
                await pieces.put(piece)
        await pieces.put(None)

    async def _give(
        self, direction: Direction, pieces: asyncio.Queue[Piece | None], writer: asyncio.StreamWriter
    ) -> None:
        while (piece := await pieces.get()) is not None:
            await asyncio.sleep(max(0.0, piece.due - asyncio.get_running_loop().time()))
            await self._flowing.wait()
            if piece.breaks:
                raise Broken
            writer.write(piece.data)
            await writer.drain()
            self.traffic.given[direction] += len(piece.data)
            self._changed()
        if writer.can_write_eof():
            writer.write_eof()

    def _lost(self, link: Link) -> bool:
        """Whether a reply that was just read goes nowhere. Raises Broken where the connection goes with it."""
        if link.mute:
            return True
        if self._replies_to_lose == 0:
            return False
        self._replies_to_lose -= 1
        self.traffic.replies_lost += 1
        self._changed()
        link.mute = self._losing_mutes
        if not link.mute:
            raise Broken
        return True

    def _break(self, link: Link) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        self.traffic.resets += 1
        link.client.reset()
        link.target.reset()
        self._changed()

    def _changed(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()


def _ways(link: Link) -> tuple[tuple[Direction, End, End], ...]:
    return ("up", link.client, link.target), ("down", link.target, link.client)


async def _connect(target: Address) -> End:
    if isinstance(target, Path):
        return End(*await asyncio.open_unix_connection(target))
    return End(*await asyncio.open_connection(*target))
