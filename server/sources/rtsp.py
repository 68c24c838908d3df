"""RTSP 1.0 (RFC 2326) as it goes over one TCP connection: messages, and packets interleaved with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DOLLAR = 0x24
HEAD_BYTES = 16 << 10
BODY_BYTES = 64 << 10


class ProtocolError(Exception):
    """The other side does not speak the protocol."""


@dataclass(frozen=True)
class Packet:
    """One interleaved RTP or RTCP packet."""

    channel: int
    data: bytes


@dataclass(frozen=True)
class Message:
    """A response or a request. Header names are in lower case; each may occur several times."""

    first_line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def is_response(self) -> bool:
        return self.first_line.startswith("RTSP/")

    @property
    def status(self) -> int:
        """Of a response. Raises ProtocolError."""
        word = [*self.first_line.split(maxsplit=2), "", ""][1]
        if not (word.isascii() and word.isdigit()):
            raise ProtocolError("a response without a status")
        return int(word)

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first_line.partition(" ")[0]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str:
        """The first header of a name, empty if there is none."""
        return next(iter(self.all(name)), "")


@dataclass
class Splitter:
    """Cuts a byte stream into packets and messages."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Packet | Message | None:
        """What is complete, None when more bytes are needed. Raises ProtocolError."""
        buffer = self._buffer
        while buffer.startswith((b"\r", b"\n")):  # servers pad between messages
            del buffer[:1]
        if not buffer:
            return None
        return self._packet() if buffer[0] == DOLLAR else self._message()

    def _packet(self) -> Packet | None:
        if len(self._buffer) < 4:
            return None
        end = 4 + int.from_bytes(self._buffer[2:4], "big")
        if len(self._buffer) < end:
            return None
        packet = Packet(self._buffer[1], bytes(self._buffer[4:end]))
        del self._buffer[:end]
        return packet

    def _message(self) -> Message | None:
        end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES)
        if end < 0:
            if len(self._buffer) >= HEAD_BYTES:
                raise ProtocolError("a message's head is too long")
            return None
        message = parse_head(bytes(self._buffer[:end]))
        length = message.get("content-length") or "0"
        if not (length.isascii() and length.isdigit()) or int(length) > BODY_BYTES:
            raise ProtocolError("a message's length is out of range")
        whole = end + 4 + int(length)
        if len(self._buffer) < whole:
            return None
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        return Message(message.first_line, message.headers, body)


def parse_head(head: bytes) -> Message:
    """First line and headers. Raises ProtocolError."""
    lines = head.decode("latin-1").split("\r\n")
    if not all(line.isprintable() for line in (line.replace("\t", " ") for line in lines)):
        raise ProtocolError("a message's head holds control characters")
    headers = [
        (name.strip().lower(), value.strip()) for name, colon, value in (s.partition(":") for s in lines[1:]) if colon
    ]
    return Message(lines[0], tuple(headers))


def request(method: str, uri: str, sequence: int, headers: Mapping[str, str]) -> bytes:
    """A request's bytes. Raises ProtocolError where a value, which may come from the server, would break it."""
    lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {sequence}", "User-Agent: Longlook"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if " " in uri or not all(line.isprintable() for line in lines):
        raise ProtocolError("a request would hold control characters")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def answer(status: str, sequence: str) -> bytes:
    """A response's bytes."""
    return f"RTSP/1.0 {status}\r\nCSeq: {sequence}\r\n\r\n".encode("latin-1")


def parameters(value: str) -> dict[str, str]:
    """``a;b=c;d="e"`` as a header has it: names in lower case, flags with an empty value."""
    pairs = (part.partition("=") for part in value.split(";"))
    return {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs if name.strip()}
