from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.encoders import encoded
from bench.priority import usual_priority
from tests.server.formats import footage

pytestmark = pytest.mark.unit


def policies() -> set[int]:
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler") or os.geteuid() != 0, reason="only root's encoders do this")
def test_an_encoder_leaves_nothing_at_real_time_priority() -> None:
    frames = (footage.frame(number) for number in range(4))
    size = (footage.WIDTH, footage.HEIGHT)
    encoded.__wrapped__("av1", frames, size=size, rate=footage.RATE, key_every=10)  # type: ignore[attr-defined]
    assert policies() != {os.SCHED_OTHER}
    with usual_priority():
        pass
    assert policies() == {os.SCHED_OTHER}
