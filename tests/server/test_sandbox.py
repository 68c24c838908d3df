"""What a decoder process can do: nothing, with the sandbox; all of it without, so that the probes are known to work."""

from __future__ import annotations

import os
import socket
import sys
import threading

import pytest

from protocol.errors import NoSandbox
from server.media import nursery, probes, sandbox
from server.media.decoders import Nursery
from server.media.escapes import SETUP, escapes
from server.media.sandbox import Sandbox, SandboxUnavailable

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")]


async def test_a_decoder_reaches_no_socket_no_file_and_no_process() -> None:
    assert await escapes() == []


async def test_without_the_sandbox_every_probe_gets_through() -> None:
    assert await escapes(unsafe=True) == list(probes.ATTEMPTS)
    assert {"udp", "tcp", "read", "write", "exec", "ptrace", "fork"} <= set(probes.ATTEMPTS)


def test_where_there_is_no_sandbox_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "LIBRARY", "libnothing.so.0")
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it must not fork"))
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=nursery.main, args=[theirs])
    serving.start()
    with ours, open(os.devnull) as anything:
        socket.send_fds(ours, [nursery.encode(nursery.Spawn(SETUP, False))], [anything.fileno()])
        reply = nursery.decode_reply(ours.recv(nursery.MESSAGE_BYTES))
    serving.join()
    theirs.close()
    assert (reply.pid, reply.lacking) == (0, "libnothing.so.0 is not installed")


async def test_the_refusal_says_what_to_do() -> None:
    async with Nursery() as confined, Nursery(unsafe=True) as unsafe:
        confined.lacking = unsafe.lacking = "libnothing.so.0 is not installed"
        with pytest.raises(NoSandbox, match=r"libnothing.*libseccomp 2\.5.*--unsafe-decoder"):
            await confined.spawn(SETUP)
        await (await unsafe.spawn(SETUP)).close()


def test_a_system_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "LIBRARY", "libnothing.so.0")
    with pytest.raises(SandboxUnavailable, match="libnothing"):
        Sandbox()
