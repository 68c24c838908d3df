"""Framing on the socket between worker and engine: an unsigned 32-bit big-endian length, then one msgpack message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from workers.engine.messages import Command, Event

LENGTH_BYTES = 4
MESSAGE_LIMIT = 16 << 20

M = TypeVar("M", bound=msgspec.Struct)


class WireError(Exception):
    """The peer sent what no peer of the same version would send."""


def pack(message: msgspec.Struct) -> bytes:
    """One framed message."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Unpacker(Generic[M]):
    """Cuts a byte stream into messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """The messages that `data` completes. WireError on a bad length or body."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if length > MESSAGE_LIMIT:
                raise WireError(f"a message of {length} bytes exceeds the limit of {MESSAGE_LIMIT}")
            end = LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH_BYTES:end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise WireError(f"a message cannot be read: {error}") from error


def command_unpacker() -> Unpacker[Command]:
    """What the engine reads with."""
    return Unpacker(msgspec.msgpack.Decoder(Command))


def event_unpacker() -> Unpacker[Event]:
    """What the worker reads with."""
    return Unpacker(msgspec.msgpack.Decoder(Event))
