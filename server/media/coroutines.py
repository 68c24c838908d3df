"""A blocking reader turned into steps: its thread runs only while its next result is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Reader(Generic[T]):
    """Runs ``body`` on a thread that takes turns with the caller, so that the two never work at the same time.

    ``body`` is given the reader: it asks for bytes by ``read``, which waits for what the caller will ``feed``, and
    hands each result over by ``emit``. An empty read means that no more will come.
    """

    def __init__(self, body: Callable[[Reader[T]], None]) -> None:
        self._body = body
        self._data = bytearray()
        self._over = False
        self._out: T | None = None
        self._error: BaseException | None = None
        self._body_may, self._caller_may = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # --- the caller's side --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> Iterator[T]:
        """What the body makes of ``data``, until it asks for more or ends. Raises what the body raised."""
        self._data += data
        while not self.ended and (result := self._turn()) is not None:
            yield result
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> Iterator[T]:
        """What the body still makes once it knows that no more will come; its thread is over then."""
        self._over = True
        yield from self.feed(b"")
        self._thread.join()

    def _turn(self) -> T | None:
        self._out = None
        self._body_may.release()
        self._caller_may.acquire()
        return self._out

    # --- the body's side ----------------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        while not self._data and not self._over:
            self._give_way()
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def emit(self, result: T) -> None:
        self._out = result
        self._give_way()

    def _give_way(self) -> None:
        self._caller_may.release()
        self._body_may.acquire()

    def _run(self) -> None:
        self._body_may.acquire()
        try:
            self._body(self)
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True
            self._caller_may.release()
