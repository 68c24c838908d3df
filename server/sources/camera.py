"""A camera pulled by RTSP over one TCP connection, its packets interleaved. Runs in the puller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from server.sources.credentials import Credentials
from server.sources.formats import Format, format_of
from server.sources.messages import Opened, Pull, Report, Unit
from server.sources.outcome import Interrupted, Redirect
from server.sources.rtp import MediaClock, Sequence, parse_rtp, says_goodbye
from server.sources.rtsp import Message, Packet, ProtocolError, Splitter, answer, parameters, request
from server.sources.sdp import Section, control_uri, parse_description
from server.sources.stream import Stream

ANSWER_S = 10.0
EARLY_PACKETS = 512  # that may come before the answer to PLAY says what their time stamps mean
TIMEOUT_S = 60  # of a session whose server names none
KEEP_ALIVE_S = (5, 30)
TCP_ALONE = (
    "the camera sends by UDP alone, and cameras are pulled over TCP: set it to RTSP over TCP, or put a relay before it"
)
REASONS = {
    403: ("the camera forbids it", False),
    404: ("the camera has nothing at this path", False),
    453: ("the camera has no bandwidth left", False),
    461: (TCP_ALONE, True),
}


@dataclass
class _Track:
    format: Format
    uri: str
    channel: int
    clock: MediaClock
    sequence: Sequence = field(default_factory=Sequence)
    ssrc: int | None = None


class Camera:
    """One play of one camera.

    Args:
        report: takes what is to be told to the gateway.
        look_after: called at least once a second; raises where the gateway is gone.
    """

    def __init__(
        self, stream: Stream, order: Pull, uri: str, report: Callable[[Report], None], look_after: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._order = order
        self._uri = uri
        self._report = report
        self._look_after = look_after
        self._credentials = Credentials(order.user, order.password)
        self._splitter = Splitter()
        self._sent = 0
        self._session = ""
        self._keep_alive_s = 0.0
        self._keep_alive_by = "OPTIONS"
        self._tracks: dict[int, _Track] = {}
        self._early: list[Packet] = []
        self._began = 0.0

    def run(self) -> None:
        """Play until the camera ends it. Raises Interrupted, Redirect, Hangup, ProtocolError."""
        public = self._ask("OPTIONS", self._uri).get("public")
        if "GET_PARAMETER" in public.upper():
            self._keep_alive_by = "GET_PARAMETER"
        described = self._ask("DESCRIBE", self._uri, {"Accept": "application/sdp"})
        base = described.get("content-base") or described.get("content-location") or self._uri
        description = parse_description(described.body)
        for number, (section, format) in enumerate(self._chosen(description.sections)):
            self._set_up(number, format, control_uri(base, section.control))
        self._play(control_uri(base, description.control))
        self._report(Opened(tracks=[track.format.info for track in self._tracks.values()]))
        for packet in self._early:
            self._take(packet)
        self._receive()

    def leave(self) -> None:
        """Tell the camera that nobody watches any more; its answer is not waited for."""
        if self._session:
            self._send("TEARDOWN", self._uri)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _chosen(self, sections: list[Section]) -> list[tuple[Section, Format]]:
        """The first video track and the first sound that can be taken."""
        chosen: dict[str, tuple[Section, Format]] = {}
        for section in sections:
            format = format_of(section, self._order.codecs, self._order.unit_bytes)
            if format is not None:
                chosen.setdefault(section.sort, (section, format))
        if not chosen:
            raise Interrupted("the camera offers no track of a codec that is taken", lasting=True)
        return list(chosen.values())

    def _set_up(self, number: int, format: Format, uri: str) -> None:
        wanted = f"RTP/AVP/TCP;unicast;interleaved={2 * number}-{2 * number + 1}"
        reply = self._ask("SETUP", uri, {"Transport": wanted})
        transport = parameters(reply.get("transport"))
        if transport and "interleaved" not in transport and "rtp/avp/tcp" not in transport:
            raise Interrupted(TCP_ALONE, lasting=True)
        told = transport.get("interleaved", "").partition("-")[0]
        channel = int(told) if told.isascii() and told.isdigit() else 2 * number
        session = reply.get("session")
        self._session = session.partition(";")[0].strip() or self._session
        timeout = parameters(session).get("timeout", "")
        shortest, longest = KEEP_ALIVE_S
        seconds = int(timeout) if timeout.isascii() and timeout.isdigit() else TIMEOUT_S
        self._keep_alive_s = min(max(seconds / 2, shortest), longest)
        self._tracks[channel] = _Track(format, uri, channel, MediaClock(format.clock_rate, None))

    def _play(self, uri: str) -> None:
        self._began = time.monotonic()
        reply = self._ask("PLAY", uri)  # without a range: some servers of live media try to seek, and fail
        for part in reply.get("rtp-info").split(","):
            told = parameters(part)
            rtptime = told.get("rtptime", "")
            if rtptime.isascii() and rtptime.isdigit():
                for track in self._tracks.values():
                    if told.get("url", "").rstrip("/") == track.uri.rstrip("/"):
                        track.clock = MediaClock(track.format.clock_rate, int(rtptime))

    def _receive(self) -> None:
        keep_alive_at = time.monotonic() + self._keep_alive_s
        while True:
            self._look_after()
            if time.monotonic() > keep_alive_at:
                self._send(self._keep_alive_by, self._uri)
                keep_alive_at = time.monotonic() + self._keep_alive_s
            part = self._part()
            if isinstance(part, Packet):
                self._take(part)
            elif part is not None and part.is_response:
                self._kept_alive(part)
            elif part is not None:
                self._respond(part)

    def _kept_alive(self, reply: Message) -> None:
        if reply.status == 454:
            raise Interrupted("the camera has forgotten the session")
        if reply.status == 401 and self._credentials.accept(reply.all("www-authenticate")):
            self._send(self._keep_alive_by, self._uri)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _ask(self, method: str, uri: str, headers: Mapping[str, str] | None = None) -> Message:
        """Send a request and wait for its answer."""
        headers = headers or {}
        while True:
            self._send(method, uri, headers)
            reply = self._answer()
            if reply.status == 401 and self._credentials.accept(reply.all("www-authenticate")):
                continue
            return self._judged(reply)

    def _judged(self, reply: Message) -> Message:
        status = reply.status
        if status == 401:
            raise Interrupted("the camera refuses this user and password", lasting=True)
        if 300 <= status < 400 and reply.get("location"):
            raise Redirect(reply.get("location"))
        if status >= 300:
            reason, lasting = REASONS.get(status, (f"the camera answers with status {status}", False))
            raise Interrupted(reason, lasting=lasting)
        return reply

    def _send(self, method: str, uri: str, headers: Mapping[str, str] | None = None) -> None:
        self._sent += 1
        own = dict(headers or {})
        if self._session:
            own["Session"] = self._session
        if (proof := self._credentials.header(method, uri)) is not None:
            own["Authorization"] = proof
        self._stream.send(request(method, uri, self._sent, own))

    def _answer(self) -> Message:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            self._look_after()
            part = self._part()
            if isinstance(part, Packet):
                self._early = [*self._early[1 - EARLY_PACKETS :], part]
            elif part is not None and not part.is_response:
                self._respond(part)
            elif part is not None and part.get("cseq") in ("", str(self._sent)):
                return part
        raise Interrupted("the camera does not answer")

    def _part(self) -> Packet | Message | None:
        """What comes next, None where nothing whole came for a second."""
        part = self._splitter.next()
        if part is None and (data := self._stream.receive()) is not None:
            self._splitter.feed(data)
            part = self._splitter.next()
        return part

    def _respond(self, message: Message) -> None:
        """Requests of the server."""
        if message.method == "REDIRECT" and message.get("location"):
            raise Redirect(message.get("location"))
        known = message.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE")
        sequence = message.get("cseq")
        if sequence.isascii() and sequence.isdigit():
            self._stream.send(answer("200 OK" if known else "501 Not Implemented", sequence))

    # --- packets ------------------------------------------------------------------------------------------------------

    def _take(self, packet: Packet) -> None:
        if packet.channel - 1 in self._tracks and says_goodbye(packet.data):
            raise Interrupted("the camera ended the stream")
        track = self._tracks.get(packet.channel)
        rtp = None if track is None else parse_rtp(packet.data)
        if track is None or rtp is None:
            return
        if track.ssrc not in (None, rtp.ssrc):
            raise ProtocolError("the stream was replaced by another one")
        track.ssrc = rtp.ssrc
        elapsed_us = round((time.monotonic() - self._began) * 1e6)
        for unit in track.format.assembler.feed(rtp, lost=track.sequence.lost(rtp.sequence)):
            media_us = track.clock.media_us(unit.timestamp, elapsed_us)
            self._report(Unit(sort=track.format.info.sort, media_us=media_us, data=unit.data, lost=unit.lost))
