"""Plans are left out where they are wrong, broken or differ from one time to the next."""

from __future__ import annotations

from copy import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import proofs
from bench.proofs import off_by, proved

pytestmark = pytest.mark.unit


ERRORS = {"right": 0.001, "wrong": 0.5, "broken": None, "also right": 0.0}


def test_only_what_is_right_is_proved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(proofs, "COMPILERS", 1)
    told: list[Any] = [SimpleNamespace(name=name, error=error) for name, error in ERRORS.items()]
    assert [proof.name for proof in proved(copy, told)] == ["right", "also right"]
    assert capsys.readouterr().out.count("left out") == 2


def test_outputs_are_held_against_what_is_expected_of_them() -> None:
    assert off_by(lambda: torch.tensor([3.0, 4.5]), lambda: torch.tensor([3.0, 4.0]).double()) == (0.1, "")


def test_other_outputs_the_second_time_are_none() -> None:
    given = iter((torch.ones(2), torch.zeros(2)))
    assert off_by(lambda: next(given), lambda: torch.ones(2)) == (None, "another result the second time")


def test_a_plan_that_breaks_says_how() -> None:
    def breaks() -> Tensor:
        raise RuntimeError("too many registers")

    assert off_by(breaks, lambda: torch.ones(2)) == (None, "RuntimeError('too many registers')")
