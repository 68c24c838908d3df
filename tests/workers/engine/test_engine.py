"""The engine as a whole: frames in, answers out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.workers.engine.rig import Rig
from workers.engine.messages import Opened, QuestionStarted

pytestmark = pytest.mark.unit


def test_smoke(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.open()
    for t in range(5):
        r.push(t * 1000)
    r.ask(at_ms=4000)
    r.run()
    assert r.outcomes() == ["prefilled"] * 5
    assert len(r.answer()) == r.done().completion_tokens
    assert r.said(QuestionStarted)[0].as_of_ms == 4000
    assert len(r.said(Opened)) == 1
