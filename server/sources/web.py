"""A source pulled by HTTP: a whole file, or a camera's endless sequence of JPEG pictures. Runs in the puller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import h11

from server.sources.credentials import Credentials
from server.sources.messages import Challenged, Ended, FileBegins, Opened, Piece, Pull, Report, TrackInfo, Unit
from server.sources.multipart import PartSplitter, boundary_of
from server.sources.outcome import Interrupted, Redirect
from server.sources.stream import Hangup, Stream

ANSWER_S = 10.0
FILE_TYPES = ("video/", "application/octet-stream", "binary/octet-stream", "application/mp4")
PLAYLISTS = ("mpegurl", "dash+xml")
PASSING = frozenset({408, 425, 429})


class Web:
    """One GET. Arguments as of ``Camera``; ``place`` is host and port, for the server to tell its sites apart."""

    def __init__(
        self, stream: Stream, order: Pull, place: str, report: Callable[[Report], None], look_after: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._order = order
        self._place = place
        self._report = report
        self._look_after = look_after
        self._connection = h11.Connection(h11.CLIENT)

    def run(self) -> None:
        """Fetch to the end. Raises Interrupted, Redirect, Hangup, h11.RemoteProtocolError."""
        self._request()
        response = self._response()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
        if response.status_code == 401:
            self._challenged([value for name, value in headers if name == "www-authenticate"])
            return
        fields = dict(headers)
        if 300 <= response.status_code < 400 and "location" in fields:
            raise Redirect(fields["location"])
        if response.status_code != 200:
            status = response.status_code
            lasting = 400 <= status < 500 and status not in PASSING | {403, 404, 409, 410}
            raise Interrupted(f"the server answers with status {status}", lasting=lasting)
        self._receive(fields.get("content-type", ""), fields.get("content-length", "0"))

    def _request(self) -> None:
        order = self._order
        headers = [("Host", self._place), ("User-Agent", "Longlook"), ("Accept", "*/*")]
        headers += [("Accept-Encoding", "identity"), ("Connection", "close")]
        credentials = Credentials(order.user, order.password)
        if order.challenges and credentials.accept(order.challenges):
            headers.append(("Authorization", credentials.header("GET", order.path) or ""))
        sent = self._connection.send(h11.Request(method="GET", target=order.path, headers=headers))
        self._stream.send((sent or b"") + (self._connection.send(h11.EndOfMessage()) or b""))

    def _response(self) -> h11.Response:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            event = self._event()
            if isinstance(event, h11.Response):
                return event
        raise Interrupted("the server does not answer")

    def _challenged(self, challenges: list[str]) -> None:
        credentials = Credentials(self._order.user, self._order.password)
        if self._order.challenges or not credentials.accept(challenges):
            raise Interrupted("the server refuses this user and password", lasting=True)
        self._report(Challenged(headers=challenges))

    def _receive(self, content_type: str, length: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind.startswith("multipart/x-mixed-replace"):
            self._pictures(PartSplitter(boundary_of(content_type), self._order.unit_bytes))
        elif kind.startswith(FILE_TYPES) and not kind.endswith(PLAYLISTS):
            self._file(int(length) if length.isascii() and length.isdigit() else 0)
        else:
            raise Interrupted("the server sends neither a video file nor a sequence of JPEG pictures", lasting=True)

    def _pictures(self, splitter: PartSplitter) -> None:
        if "jpeg" not in self._order.codecs:
            raise Interrupted("JPEG is not taken", lasting=True)
        self._report(Opened(tracks=[TrackInfo(sort="video", codec="jpeg")]))
        began = time.monotonic()
        for data in self._data():
            media_us = round((time.monotonic() - began) * 1e6)
            for picture in splitter.feed(data):
                self._report(Unit(sort="video", media_us=media_us, data=picture))
        raise Interrupted("the camera ended the stream")

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
