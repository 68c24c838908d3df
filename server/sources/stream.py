"""The inherited connection as a stream of bytes, encrypted or not, through read and write alone.

A confined process may call nothing else: limits of time are the socket's own, set before.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct

READ_BYTES = 64 << 10
WAIT_S = 1  # how long a read waits; whoever reads looks after other things in between
SEND_S = 10
HANDSHAKE_WAITS = 10


class Hangup(Exception):
    """The other side is gone; the message says how, for people."""


class Stream:
    """A connected socket. ``tls`` encrypts it; the server must prove that it is ``host``."""

    def __init__(self, connection: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        for option, seconds in ((socket.SO_RCVTIMEO, WAIT_S), (socket.SO_SNDTIMEO, SEND_S)):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))
        connection.setblocking(True)
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None if tls is None else tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def open(self) -> None:
        """Shake hands, where the stream is encrypted. Raises Hangup."""
        waits = 0
        while self._tls is not None:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                waits += not self._more()
            except ssl.SSLError:
                raise Hangup("the server's certificate is not accepted, or it speaks no TLS") from None
            if waits > HANDSHAKE_WAITS:
                raise Hangup("the server does not answer")

    def receive(self) -> bytes | None:
        """What came, None after a second without anything. Raises Hangup."""
        if self._tls is None:
            return self._read()
        while True:
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                if not self._more():
                    return None
            except ssl.SSLError:
                raise Hangup("the encrypted connection broke") from None
            else:
                if not data:
                    raise Hangup("the server closed the connection")
                return data

    def send(self, data: bytes) -> None:
        """Raises Hangup, also where the other side takes nothing for ten seconds."""
        if self._tls is None:
            self._write(data)
            return
        self._tls.write(data)
        self._flush()

    def _more(self) -> bool:
        data = self._read()
        if data is not None:
            self._incoming.write(data)
        return data is not None

    def _flush(self) -> None:
        self._write(self._outgoing.read())

    def _read(self) -> bytes | None:
        try:
            data = os.read(self._connection.fileno(), READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            raise Hangup("the connection was lost") from None
        if not data:
            raise Hangup("the server closed the connection")
        return data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._connection.fileno(), view) :]
        except OSError:
            raise Hangup("the connection was lost") from None
