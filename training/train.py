"""Trains the bundled model from nothing, in stages, in runs that may be interrupted.

    python -m training.train --state /tmp/mini --out models/mini

Stages: `pictures` (six pictures, mostly what is there now), `clips` (twelve), `streams` (44, the trunk a window of
them) and `minutes` (132 pictures, up to four minutes); in some examples of the last two, patches that did not change
are left out. Every update is numbered and depends only on the seed and its number. The state is saved every 500 updates
and at the end; a run that finds one goes on from it. `--until` ends a run early, `--minutes` by the clock; the learning
rate falls to nothing over the whole plan, however many runs it takes. Tokenizer and configuration are in models/mini:
`python -m training.vocabulary` and `python -m training.architecture` write them.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from training.feed import Batch, Lessons, Studio, loader
from training.journal import Journal
from training.masks import Attention, block_attention, block_mask, dense_attention
from training.muon import Muon
from training.stages import STAGES, Stage
from training.state import load_state, save_state
from training.student import Outcome, Student
from training.thinning import thinned
from workers.models.checkpoint import save_model
from workers.models.decoder import DecoderLayer
from workers.models.families import QWEN25VL, read_config
from workers.models.pixels import PixelFormat
from workers.models.qwen25vl import VisionBlock
from workers.models.tokenizer import Tokenizer

WARM_UP = 100
SAVED_EVERY = 500
_SHARD = 12 * 1024**2


class Trainer:
    """Student, optimizers and schedule on one device."""

    def __init__(self, folder: Path, plan: list[Stage], rate: float, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        config = read_config(folder)
        pixels = PixelFormat.from_folder(folder, config.vision, QWEN25VL.default_pixels)
        self.student = Student(config, pixels, Tokenizer.from_folder(folder)).to(device)
        self._plan, self._rate, self._device = plan, rate, device
        self._studio = Studio(device, seed)
        matrices, rest = _split(self.student)
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=rate),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda"),
        ]
        if device.type == "cuda":
            for module in self.student.modules():
                if isinstance(module, VisionBlock | DecoderLayer):
                    module.compile(dynamic=False)

    def update(self, step: int, batch: Batch) -> tuple[Outcome, Batch]:
        """One step of both optimizers on a batch, which is moved to the device first."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate * schedule(step, len(self._plan))
        batch = {name: array.to(self._device, non_blocking=True) for name, array in batch.items()}
        pictures = self._studio.pictures(batch)
        batch = thinned(batch, pictures)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            outcome: Outcome = self.student(pictures, batch, self._attention(batch))
        torch.autograd.backward(outcome.total)
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return outcome, batch

    def _attention(self, batch: Batch) -> Attention:
        if self._device.type == "cuda":
            return block_attention(block_mask(batch), *batch["tokens"].shape)
        return dense_attention(batch)


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate: up in 100 updates, level for half of all, then down to nothing as a cosine."""
    rising = min(1.0, (step + 1) / WARM_UP)
    done = max(0.0, step / steps - 0.5) / 0.5
    return rising * 0.5 * (1 + math.cos(math.pi * done))


def _split(student: Student) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices inside blocks, and everything else."""
    inside: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in student.named_parameters():
        block = ".blocks." in name or ".layers." in name or ".merger." in name
        (inside if block and parameter.ndim == 2 else rest).append(parameter)
    return inside, rest


def planned(steps: list[int]) -> list[Stage]:
    """The stage of every update, given how many each stage has."""
    return [stage for stage, count in zip(STAGES, steps, strict=True) for _ in range(count)]


def rehearse(trainer: Trainer, folder: Path, done: list[Stage], seed: int) -> None:
    """An update of each stage that is done, before the state is loaded over what they teach.

    The compiler meets the shapes in the order of an uninterrupted run: beginning with the longest sequences took it
    four minutes and more, in this order it takes one.
    """
    stages = list(dict.fromkeys(done))
    for step, batch in enumerate(loader(Lessons(folder, stages, 0, seed), len(stages))):
        trainer.update(step, batch)


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    plan: list[Stage],
    start: int,
    until: int,
    deadline: float,
    journal: Journal,
    save: Callable[[int], None],
) -> int:
    """Updates from `start` to `until` or the deadline (time.monotonic); the number of the next one.

    `save` is told now and then, and at the end, which update is next.
    """
    step = start
    while step < until and time.monotonic() < deadline:
        asked = time.monotonic()
        made = next(batches)
        waited = time.monotonic() - asked
        outcome, batch = trainer.update(step, made)
        step += 1
        journal.record(step, plan[step - 1], outcome, batch, waited)
        if step % SAVED_EVERY == 0:
            save(step)
    save(step)
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of the interrupted or finished run")
    parser.add_argument("--out", type=Path, help="folder to export the weights to when the run ends")
    parser.add_argument("--log", type=Path, default=Path("bench/results/mini-training.json"))
    parser.add_argument("--mini", type=Path, default=Path("models/mini"), help="tokenizer and configuration")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time, at the next update")
    parser.add_argument("--until", type=int, help="end before the update of this number")
    usual = ",".join(str(stage.steps) for stage in STAGES)
    parser.add_argument("--steps", default=usual, help=f"updates of each stage; {usual} unless given")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, help="examples an update, in place of each stage's number")
    parser.add_argument("--workers", type=int, default=14, help="processes that make examples")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    began = time.monotonic()
    plan = planned([int(count) for count in wanted.steps.split(",")])
    if wanted.batch:
        plan = [replace(stage, batch=wanted.batch) for stage in plan]
    start = (
        json.loads((wanted.state / "state.json").read_text())["step"] if (wanted.state / "state.json").exists() else 0
    )
    batches = iter(loader(Lessons(wanted.mini, plan, start, wanted.seed), wanted.workers))
    trainer = Trainer(wanted.mini, plan, wanted.rate, wanted.seed, torch.device(wanted.device))
    if start:
        rehearse(trainer, wanted.mini, plan[:start], wanted.seed)
        load_state(wanted.state, trainer.student, trainer.optimizers)
    journal = Journal(
        wanted.log, resumed=start > 0, device=trainer_name(wanted.device), today=f"{datetime.now(UTC):%Y-%m-%d}"
    )
    until = min(wanted.until or len(plan), len(plan))

    def save(step: int) -> None:
        save_state(wanted.state, step, trainer.student, trainer.optimizers)
        journal.write()

    step = train(trainer, batches, plan, start, until, began + 60 * wanted.minutes, journal, save)
    if wanted.out is not None:
        wanted.out.mkdir(parents=True, exist_ok=True)
        save_model(trainer.student.model, wanted.out, "int8", _SHARD)
    print(f"update {step} of {len(plan)}, {time.monotonic() - began:.0f} s")


def trainer_name(device: str) -> str:
    """The hardware's name for the log."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"


if __name__ == "__main__":
    main()
