"""``multipart/x-mixed-replace``: the way in which cameras send one JPEG picture after the other in one response."""

from __future__ import annotations

from collections.abc import Iterator

from server.sources.outcome import Interrupted

HEAD_BYTES = 4 << 10
JPEG_START = b"\xff\xd8"


def boundary_of(content_type: str) -> bytes:
    """The delimiter between parts as it stands in the body. Raises Interrupted."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        boundary = value.strip().strip('"').removeprefix("--")  # some cameras give the dashes too
        if name.strip().lower() == "boundary" and boundary:
            return b"--" + boundary.encode("latin-1")
    raise Interrupted("the server does not say what lies between its pictures", lasting=True)


class PartSplitter:
    """Bytes in, the bodies of JPEG parts out. Raises Interrupted where a part is larger than ``limit`` bytes."""

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._boundary = boundary
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0  # bytes of it that hold no end of a part
        self._length: int | None = None  # of the part that is being read; -1 where only its end will tell

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while (part := self._next()) is not None:
            if part.startswith(JPEG_START):
                yield part
        if len(self._buffer) > self._limit + HEAD_BYTES:
            raise Interrupted("a picture is larger than is taken", lasting=True)

    def _next(self) -> bytes | None:
        if self._length is None and not self._head():
            return None
        if self._length is not None and self._length >= 0:
            return self._cut(self._length)
        sign = b"\r\n" + self._boundary
        end = self._buffer.find(sign, self._searched)
        if end < 0:
            self._searched = max(len(self._buffer) - len(sign), 0)
            return None
        return self._cut(end)

    def _cut(self, end: int) -> bytes | None:
        if len(self._buffer) < end:
            return None
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._length, self._searched = None, 0
        return part

    def _head(self) -> bool:
        """Pass over a delimiter and the part's head, once they are complete."""
        begin = self._buffer.find(self._boundary)
        end = self._buffer.find(b"\r\n\r\n", begin)
        if begin < 0 or end < 0:
            if len(self._buffer) - max(begin, 0) > HEAD_BYTES:
                raise Interrupted("what comes between the pictures makes no sense")
            return False
        lines = bytes(self._buffer[begin:end]).decode("latin-1").lower().split("\r\n")[1:]
        lengths = [line.partition(":")[2].strip() for line in lines if line.startswith("content-length")]
        stated = lengths[0] if lengths else ""
        self._length = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 12 else -1
        del self._buffer[: end + 4]
        return True
