"""How far the host may be ahead of the device: what a step has drawn is read once the next one is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from workers.core import Fence
from workers.engine.answers import Answers, Saying
from workers.engine.batch import Following
from workers.engine.sampler import Drawn


class Heard(NamedTuple):
    """What was drawn in a step, and which answers it belongs to; the host has yet to read it."""

    sayings: Sequence[tuple[Answers, Saying, Following]]
    drawn: Drawn

    def tell(self) -> None:
        """Reads the tokens, waiting for them if need be, and tells the answers."""
        tokens = self.drawn.read()
        for answers, saying, following in self.sayings:
            answers.hear(saying.branch, following, tokens[following.row])


class Pace:
    """Lets the host go one step `ahead` of the device, and no further."""

    def __init__(self, device: torch.device, ahead: bool) -> None:
        self._ahead = ahead
        self._heard: Heard | None = None
        self._ends = Fence(device), Fence(device)

    def stepped(self, heard: Heard | None) -> None:
        """A step is under way. Tells what was heard in the one before, and waits for that to end."""
        before, self._heard = self._heard, heard
        end, this = self._ends
        this.mark()
        if not self._ahead:
            self.settle()
            this.wait()
            return
        if before is not None:
            before.tell()
        end.wait()
        self._ends = this, end

    def settle(self) -> bool:
        """Tells what is left to tell; False if there was nothing."""
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.tell()
        return heard is not None
