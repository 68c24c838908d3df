"""A process whose rank at the other end is gone ends, even if it cannot notice by itself."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from workers.parallel import processes
from workers.parallel.processes import watch_over

pytestmark = pytest.mark.unit


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watch over ranks"]


@pytest.mark.parametrize("ended", [False, True], ids=["stuck", "ended by itself"])
def test_a_process_ends_soon_after_the_other_end_is_gone(ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(processes, "GRACE_S", 0.05)
    monkeypatch.setattr(os, "_exit", statuses.append)
    over = threading.Event()
    ours, theirs = socket.socketpair()
    with ours:
        watch_over([ours.fileno()], over)
        (watcher,) = watchers()
        theirs.sendall(b"an order")
        assert watcher.is_alive(), "what is said is no reason to end"
        if ended:
            over.set()
        theirs.close()
        watcher.join(10)
        assert not watcher.is_alive()
    assert statuses == ([] if ended else [70])
