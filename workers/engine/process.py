"""The engine process: commands in, events out, steps in between, all on one thread."""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Callable

from workers.engine.engine import Engine
from workers.engine.messages import Command, Event, Failed, Shutdown, Stats, Working
from workers.engine.wire import command_unpacker, pack

_READ_BYTES = 1 << 16
_WAITING_SECONDS = 0.005
_STATS_SECONDS = 1.0
_UNSENT_LIMIT = 64 << 20


class PeerGone(Exception):
    """The worker has closed the socket, or has not read it for so long that it must be stuck."""


class Link:
    """The engine's end of the socket. Neither sending nor receiving ever waits; what cannot be sent yet is kept."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._unpacker = command_unpacker()
        self._unsent = bytearray()

    def send(self, event: Event) -> None:
        """PeerGone if the worker is, or if more than 64 MiB wait for it."""
        self._unsent += pack(event)
        self.flush()
        if len(self._unsent) > _UNSENT_LIMIT:
            raise PeerGone("the worker has stopped reading")

    def flush(self) -> None:
        """Sends what the socket takes."""
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            raise PeerGone(str(error)) from error

    def receive(self) -> list[Command]:
        """All commands that have come in. PeerGone at the end of the stream; WireError if it makes no sense."""
        commands: list[Command] = []
        while True:
            try:
                data = self._peer.recv(_READ_BYTES)
            except BlockingIOError:
                return commands
            except OSError as error:
                raise PeerGone(str(error)) from error
            if not data:
                raise PeerGone("the worker has closed the socket")
            commands += self._unpacker.feed(data)

    def wait(self, seconds: float) -> None:
        """Waits until the socket can be read, or written if something is unsent, at most so long."""
        select.select([self._peer], [self._peer] if self._unsent else [], [], seconds)


def serve(peer: socket.socket, make_engine: Callable[[Callable[[Event], None]], Engine]) -> None:
    """Runs an engine until the worker says Shutdown or goes away; an engine that fails says so before it raises."""
    link = Link(peer)
    try:
        engine = make_engine(link.send)
        gc.collect()
        gc.freeze()  # a collection that looked through all that has been imported and loaded would hold a step up
        link.send(engine.ready)
        _loop(link, engine)
    except PeerGone:
        return
    except BaseException as error:
        link.send(Failed(message=f"{type(error).__name__}: {error}"))
        raise
    finally:
        gc.unfreeze()


def _carry_out(command: Command, engine: Engine, link: Link) -> None:
    try:
        engine.handle(command)
    except Exception:
        link.send(Working(session_ids=[getattr(command, "session_id", "")]))
        raise


def _loop(link: Link, engine: Engine) -> None:
    said = 0.0
    while True:
        for command in link.receive():
            if isinstance(command, Shutdown):
                return
            _carry_out(command, engine, link)
        busy = engine.step()
        now = time.monotonic()
        if now - said >= _STATS_SECONDS:
            said = now
            link.send(Stats(stats=engine.stats))
        link.flush()
        if not busy:
            link.wait(_WAITING_SECONDS if engine.waiting else _STATS_SECONDS)
