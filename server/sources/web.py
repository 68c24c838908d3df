"""A source pulled by HTTP: a whole file, or a camera's JPEG pictures, in one endless answer or asked for one by one.

Runs in the puller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import h11

from server.sources.credentials import Credentials
from server.sources.messages import Again, Challenged, Ended, FileBegins, Opened, Piece, Pull, Report, TrackInfo, Unit
from server.sources.multipart import JPEG_START, PartSplitter, boundary_of
from server.sources.outcome import Interrupted, Redirect
from server.sources.stream import Hangup, Stream

ANSWER_S = 10.0
FILE_TYPES = ("video/", "application/octet-stream", "binary/octet-stream", "application/mp4")
PLAYLISTS = ("mpegurl", "dash+xml")
PASSING = frozenset({408, 425, 429})
FASTEST_S, SLOWEST_S = 0.2, 2.0  # between two pictures that are asked for one by one
NAP_S = 0.25
PICTURE = "image/jpeg"


class Web:
    """One GET, or one for each picture of a camera that has single ones.

    Arguments as of ``Camera``; ``place`` is host and port, for the server to tell its sites apart.
    """

    def __init__(
        self, stream: Stream, order: Pull, place: str, report: Callable[[Report], None], look_after: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._order = order
        self._place = place
        self._report = report
        self._look_after = look_after
        self._connection = h11.Connection(h11.CLIENT)
        self._credentials = Credentials(order.user, order.password)
        self._proves = bool(order.challenges) and self._credentials.accept(order.challenges)

    def run(self) -> None:
        """Fetch to the end. Raises Interrupted, Redirect, Hangup, h11.RemoteProtocolError."""
        fields = self._ask()
        if fields is not None:
            self._receive(fields.get("content-type", ""), fields.get("content-length", "0"))

    def _ask(self) -> dict[str, str] | None:
        """The answer's headers, None where the server wants a proof first."""
        self._request()
        response = self._response()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
        if response.status_code == 401:
            self._challenged([value for name, value in headers if name == "www-authenticate"])
            return None
        fields = dict(headers)
        if 300 <= response.status_code < 400 and "location" in fields:
            raise Redirect(fields["location"])
        if response.status_code != 200:
            status = response.status_code
            lasting = 400 <= status < 500 and status not in PASSING | {403, 404, 409, 410}
            raise Interrupted(f"the server answers with status {status}", lasting=lasting)
        return fields

    def _request(self) -> None:
        path = self._order.path
        headers = [
            ("Host", self._place),
            ("User-Agent", "Longlook"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]
        if self._proves:
            headers.append(("Authorization", self._credentials.header("GET", path) or ""))
        sent = self._connection.send(h11.Request(method="GET", target=path, headers=headers))
        self._stream.send((sent or b"") + (self._connection.send(h11.EndOfMessage()) or b""))

    def _response(self) -> h11.Response:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            event = self._event()
            if isinstance(event, h11.Response):
                return event
        raise Interrupted("the server does not answer")

    def _challenged(self, challenges: list[str]) -> None:
        fresh = Credentials(self._order.user, self._order.password)
        if (self._order.challenges and not self._order.proved) or not fresh.accept(challenges):
            raise Interrupted("the server refuses this user and password", lasting=True)
        self._report(Challenged(headers=challenges))

    def _receive(self, content_type: str, length: str) -> None:
        kind = _kind(content_type)
        if kind.startswith("multipart/x-mixed-replace"):
            self._pictures(PartSplitter(boundary_of(content_type), self._order.unit_bytes))
        elif kind == PICTURE:
            self._single_pictures()
        elif kind.startswith(FILE_TYPES) and not kind.endswith(PLAYLISTS):
            self._file(int(length) if length.isascii() and length.isdigit() else 0)
        else:
            raise Interrupted("the server sends neither a video file nor JPEG pictures", lasting=True)

    def _pictures(self, splitter: PartSplitter) -> None:
        self._open()
        for data in self._data():
            at = time.monotonic()
            for picture in splitter.feed(data):
                self._bring(picture, at)
        raise Interrupted("the camera ended the stream")

    def _single_pictures(self) -> None:
        """The answer that has begun is one picture; each further one is asked for when it is due."""
        self._open()
        period = min(max(1 / self._order.fps, FASTEST_S), SLOWEST_S)
        due = time.monotonic()
        while True:
            self._bring(self._whole(), time.monotonic())
            due = max(due + period, time.monotonic())
            if self._connection.our_state is not h11.DONE or self._connection.their_state is not h11.DONE:
                self._report(Again(after_s=max(due - time.monotonic(), 0.0)))
                return
            self._wait_until(due)
            self._connection.start_next_cycle()
            try:
                fields = self._ask()
            except (Hangup, h11.RemoteProtocolError):  # it does not keep connections for so long
                self._report(Again(after_s=0.0))
                return
            if fields is None:
                return
            if _kind(fields.get("content-type", "")) != PICTURE:
                raise Interrupted("the camera sends something else than a picture")

    def _open(self) -> None:
        if "jpeg" not in self._order.codecs:
            raise Interrupted("JPEG is not taken", lasting=True)
        self._report(Opened(tracks=[TrackInfo(sort="video", codec="jpeg")]))

    def _bring(self, picture: bytes, at: float) -> None:
        """``at``: of the system's steady clock, which goes on over connections."""
        if not picture.startswith(JPEG_START):
            raise Interrupted("what the camera sends as a picture is none")
        self._report(Unit(sort="video", media_us=round(at * 1e6), data=picture))

    def _whole(self) -> bytes:
        body = bytearray()
        for data in self._data():
            body += data
            if len(body) > self._order.unit_bytes:
                raise Interrupted("a picture is larger than is taken", lasting=True)
        return bytes(body)

    def _wait_until(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0:
            self._look_after()
            time.sleep(min(left, NAP_S))

    def _file(self, size: int) -> None:
        self._report(FileBegins(size=size))
        for data in self._data():
            self._report(Piece(data=data))
        self._report(Ended())

    def _data(self) -> Iterator[bytes]:
        while True:
            match self._event():
                case h11.Data(data=data):
                    yield bytes(data)
                case h11.EndOfMessage() | h11.ConnectionClosed():
                    return

    def _event(self) -> h11.Event | None:
        """None after a second without one."""
        self._look_after()
        event = self._connection.next_event()
        if isinstance(event, h11.Event):
            return event
        try:
            data = self._stream.receive()
        except Hangup:
            data = b""  # the end of a body whose length nobody told, or of one that was cut short: h11 knows
        if data is not None:
            self._connection.receive_data(data)
        return None


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
