"""The process that decoder processes are forked from: libraries loaded once, and none of the gateway's sockets in it.

Run as ``python -m server.media.nursery FD``; FD is a stream socket to the gateway. A request is one message with the
decoder's socket (and perhaps a file) attached; the next is sent only after the reply. When the gateway goes, so do all
decoders.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys

import msgspec
from PIL import Image

from server.media.decoding import serve
from server.media.jobs import Setup

MESSAGE_BYTES = 4096


class Spawn(msgspec.Struct, frozen=True, tag="spawn"):
    """Fork a decoder for the attached socket, and file if ``file``."""

    setup: Setup
    file: bool


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End a decoder that misses its deadline. Asked of its parent, so that its pid cannot be another's by then."""

    pid: int


class Reply(msgspec.Struct, frozen=True):
    pid: int


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Spawn | Kill).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def main(control: socket.socket) -> None:
    """Serve the gateway until it hangs up."""
    Image.init()  # every codec's module is loaded here, since the children open no files
    gc.freeze()  # pages shared with the children stay shared
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        children -= _buried(children)
        if not message:
            break
        request = decode_request(message)
        if isinstance(request, Spawn):
            pid = _fork(control, request, descriptors)
            children.add(pid)
        else:
            pid = request.pid
            if pid in children:
                os.kill(pid, signal.SIGKILL)
        control.sendall(encode(Reply(pid)))
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _fork(control: socket.socket, request: Spawn, descriptors: list[int]) -> int:
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    status = 1
    try:
        control.close()
        file = descriptors[1] if request.file else None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(socket.socket(fileno=descriptors[0]), request.setup, file)
        status = 0
    finally:
        os._exit(status)  # never the nursery's own way out


def _buried(children: set[int]) -> set[int]:
    """Children that have ended, reaped."""
    return {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
