"""The process that speaks to one camera or web server: ``python -m server.sources.puller FD``.

FD is a connection that the gateway made, to an address that it judged. The order comes in on standard input, reports go
out on standard output, and the end of standard input is the end of the work. The process takes packets apart and
decodes nothing; it can open neither files nor sockets.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import ssl
import sys
import time
from contextlib import suppress

import h11

from server.media.jobs import PREFIX
from server.media.sandbox import Sandbox, SandboxUnavailable
from server.sources.camera import Camera
from server.sources.messages import Moved, Pull, Refused, Report, decode_order, encode
from server.sources.outcome import Interrupted, Redirect
from server.sources.rtsp import ProtocolError
from server.sources.stream import Hangup, Stream
from server.sources.targets import Target
from server.sources.web import Web

DESCRIPTORS = 8
LOOK_S = 0.5
ORDER, REPORTS = 0, 1


class GatewayGone(Exception):
    """Nobody wants the source any more."""


class Gateway:
    """The other end of standard input and output."""

    def __init__(self) -> None:
        self._looked = 0.0

    def order(self) -> Pull:
        (length,) = PREFIX.unpack(_read_exactly(PREFIX.size))
        order = decode_order(_read_exactly(length))
        os.set_blocking(ORDER, False)  # from here on it is looked at only for its end
        return order

    def report(self, report: Report) -> None:
        """Waits while the gateway is behind, and with it the camera. Raises GatewayGone."""
        body = encode(report)
        view = memoryview(PREFIX.pack(len(body)) + body)
        try:
            while view:
                view = view[os.write(REPORTS, view) :]
        except OSError:
            raise GatewayGone from None

    def look_after(self) -> None:
        """Raises GatewayGone."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            gone = not os.read(ORDER, 1)
        except BlockingIOError:
            gone = False
        if gone:
            raise GatewayGone


def main(descriptor: int) -> None:
    gateway = Gateway()
    order = gateway.order()
    tls = ssl.create_default_context(cafile=order.ca_file) if order.ca_file else None
    stream = Stream(socket.socket(fileno=descriptor), tls, order.host)
    try:
        confine(order)
        last = pull(stream, order, gateway)
    except SandboxUnavailable as unavailable:
        last = Refused(reason=f"this server cannot confine what would pull it: {unavailable}", lasting=True)
    except GatewayGone:
        return
    if last is not None:
        with suppress(GatewayGone):
            gateway.report(last)


def confine(order: Pull) -> None:
    """For the process's whole life: little memory, few descriptors, no files, no core dumps, no new connections.

    Raises:
        SandboxUnavailable: the system cannot.
    """
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: DESCRIPTORS}
    if sys.platform == "linux":  # macOS has the name but refuses the limit
        limits[resource.RLIMIT_DATA] = order.memory_bytes
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
    gc.freeze()
    if order.sandbox:
        Sandbox().enter()


def pull(stream: Stream, order: Pull, gateway: Gateway) -> Report | None:
    """The last thing to be said."""
    target = Target(order.scheme, order.host, order.port, order.path)
    work: Camera | Web
    camera: Camera | None = None
    try:
        stream.open()
        if order.scheme.startswith("rtsp"):
            work = camera = Camera(stream, order, target.uri, gateway.report, gateway.look_after)
        else:
            work = Web(stream, order, target.place, gateway.report, gateway.look_after)
        work.run()
    except Interrupted as interrupted:
        return Refused(reason=interrupted.reason, lasting=interrupted.lasting)
    except Redirect as redirect:
        return Moved(location=redirect.location)
    except Hangup as hangup:
        return Refused(reason=str(hangup))
    except (ProtocolError, h11.ProtocolError):
        return Refused(reason="the server does not keep to the protocol")
    finally:
        _leave(camera)
    return None


def _leave(camera: Camera | None) -> None:
    try:
        if camera is not None:
            camera.leave()
    except (Hangup, ProtocolError):
        return


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(ORDER, size - len(data))
        if not piece:
            raise EOFError("the gateway said nothing")
        data += piece
    return data


if __name__ == "__main__":
    main(int(sys.argv[1]))
