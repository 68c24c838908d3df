"""The process that decoder processes are forked from: libraries loaded once, and none of the gateway's sockets in it.

Run as ``python -m server.media.nursery FD [unsafe]``; FD is a stream socket to the gateway. A request is one message
with the decoder's socket (and perhaps a file) attached; the next is sent only after the reply. When the gateway goes,
so do all decoders. Where the system has no sandbox nothing is forked, unless ``unsafe`` asks for it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys

import av
import av.subtitles.codeccontext  # PyAV imports these late, and a decoder can load nothing
import av.subtitles.stream
import av.subtitles.subtitle
import msgspec
from PIL import Image

from server.media.codecs import VIDEO
from server.media.decoding import serve
from server.media.jobs import Setup
from server.media.looks import look_of_image
from server.media.sandbox import Sandbox, SandboxUnavailable

MESSAGE_BYTES = 4096


class Spawn(msgspec.Struct, frozen=True, tag="spawn"):
    """Fork a decoder for the attached socket, and file if ``file``."""

    setup: Setup
    file: bool


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End a decoder that misses its deadline. Asked of its parent, so that its pid cannot be another's by then."""

    pid: int


class Reply(msgspec.Struct, frozen=True):
    """``pid`` is the decoder's, 0 where none was forked; ``lacking`` says why there is no sandbox."""

    pid: int
    lacking: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Spawn | Kill).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def main(control: socket.socket, *, unsafe: bool = False) -> None:
    """Serve the gateway until it hangs up."""
    sandbox, lacking = _sandbox()
    _load_libraries()
    _fall_silent()
    gc.freeze()  # pages shared with the children stay shared
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        children -= _buried(children)
        if not message:
            break
        request = decode_request(message)
        pid = 0
        if isinstance(request, Kill):
            pid = request.pid
            if pid in children:
                os.kill(pid, signal.SIGKILL)
        elif sandbox is not None or unsafe:
            pid = _fork(control, request, descriptors, None if unsafe else sandbox)
            children.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(encode(Reply(pid, lacking)))
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _sandbox() -> tuple[Sandbox | None, str]:
    """The sandbox, or why there is none: a process goes into it first, since a kernel may refuse it only then."""
    try:
        sandbox = Sandbox()
    except SandboxUnavailable as error:
        return None, str(error)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            sandbox.enter()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        return None, "the kernel refuses the system call filter"
    return sandbox, ""


def _load_libraries() -> None:
    """All that decoders will use is loaded and has made its tables here, since they can open nothing."""
    Image.init()
    for name in [*(form.decoder for form in VIDEO.values()), "opus", "aac"]:
        av.CodecContext.create(name, "r").open()
    picture = Image.new("RGB", (64, 64))
    look_of_image(picture, picture)


def _fall_silent() -> None:
    """From here on nothing is written: decoders would, at the bidding of what they decode, and nobody reads it."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _fork(control: socket.socket, request: Spawn, descriptors: list[int], sandbox: Sandbox | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        control.close()
        file = descriptors[1] if request.file else None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(descriptors[0], request.setup, file, sandbox)
        status = 0
    finally:
        os._exit(status)  # never the nursery's own way out


def _buried(children: set[int]) -> set[int]:
    """Children that have ended, reaped."""
    return {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), unsafe="unsafe" in sys.argv[2:])
