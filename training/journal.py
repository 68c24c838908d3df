"""The training's log: loss and accuracy by kind of question, over updates and time."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.feed import Batch
from training.lesson import IGNORED
from training.stages import Stage
from training.student import Outcome
from training.world.questions import KINDS

_EVERY = 50


class Journal:
    """Adds up what updates report and notes it every fifty. No example comes twice: this is accuracy on unseen ones.

    An answer counts as right if each of its tokens was the likeliest one: then it would be spoken as it stands.
    """

    def __init__(self, path: Path, *, resumed: bool, device: str, today: str) -> None:
        self._path = path
        self._log: dict[str, Any] = {"hardware": device, "date": today, "seconds": 0.0, "updates": []}
        if resumed and path.exists():
            self._log = json.loads(path.read_text(encoding="utf-8"))
        self._before = self._log["seconds"]
        self._began = time.monotonic()
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._waited = 0.0

    def record(self, step: int, stage: Stage, outcome: Outcome, batch: Batch, waited: float) -> None:
        """`waited`: seconds that the update waited for its batch."""
        self._waited += waited
        self._sums.append(torch.stack([outcome.answer, outcome.sight, outcome.memory]).detach())
        self._counts.append(_tally(outcome.hits, batch))
        if step % _EVERY == 0:
            self._note(step, stage)

    def write(self) -> None:
        """Writes the log; a run that goes on later adds to it."""
        self._log["seconds"] = round(self._before + time.monotonic() - self._began, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._log, indent=1) + "\n", encoding="utf-8")

    def _note(self, step: int, stage: Stage) -> None:
        losses = torch.stack(self._sums).mean(0).tolist()
        right, asked = torch.stack(self._counts).sum(0).tolist()
        shares = {kind: round(r / a, 4) for kind, r, a in zip(KINDS, right, asked, strict=True) if a}
        seconds = round(self._before + time.monotonic() - self._began, 1)
        entry = {
            "update": step,
            "stage": stage.name,
            "seconds": seconds,
            "waited": round(self._waited, 1),
            "accuracy": shares,
        }
        entry |= dict(zip(("answer", "sight", "memory"), (round(loss, 4) for loss in losses), strict=True))
        self._log["updates"].append(entry)
        spoken = " ".join(f"{kind}={100 * share:.0f}" for kind, share in shares.items())
        print(
            f"{step} {stage.name} {seconds:.0f}s waited {self._waited:.1f}s",
            *(f"{x:.3f}" for x in losses),
            spoken,
            flush=True,
        )
        self._sums, self._counts, self._waited = [], [], 0.0


def _tally(hits: Tensor, batch: Batch) -> Tensor:
    """Right answers and all answers by kind, [2, kinds]; targets of one answer stand together and share its kind."""
    target, kind = batch["target"].flatten(), batch["kind"].flatten()
    rows = torch.nonzero(target != IGNORED)[:, 0]
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1] + 1
    answer = first.cumsum(0) - 1
    kinds = kind[rows].long()
    missed = torch.zeros(len(rows), device=rows.device).index_add_(0, answer, (~hits).float())
    right = ((missed == 0).float())[answer] * first
    tally = torch.zeros(2, len(KINDS), device=rows.device)
    tally[0].index_add_(0, kinds, right)
    tally[1].index_add_(0, kinds, first.float())
    return tally
