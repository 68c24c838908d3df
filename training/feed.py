"""Batches for the training loop: examples made by worker processes, pictures drawn where the model is."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.lesson import Teacher, stacked
from training.stages import Stage
from training.world.artefacts import degrade
from training.world.renderer import Renderer
from workers.models.tokenizer import Tokenizer

Batch = dict[str, Tensor]


class Lessons(IterableDataset[Batch]):
    """The batches of a plan, from update `start` on; each depends on nothing but the seed and its own number."""

    def __init__(self, folder: Path, plan: list[Stage], start: int, seed: int) -> None:
        self._folder, self._plan, self._start, self._seed = folder, plan, start, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        teacher = Teacher(Tokenizer.from_folder(self._folder), rate=2.0)
        for step in range(self._start + number, len(self._plan), workers):
            stage = self._plan[step]
            first = (self._seed * 1_000_003 + step) * 4096
            lessons = [teacher.lesson(first + example, stage.syllabus) for example in range(stage.batch)]
            yield {name: torch.from_numpy(array) for name, array in stacked(lessons).items()}


def loader(lessons: Lessons, workers: int) -> DataLoader[Batch]:
    """Batches in order of their number, made ahead by `workers` processes."""
    return DataLoader(
        lessons,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=3 if workers else None,
    )


class Studio:
    """Draws the pictures of batches on one device, with the faults of cameras and codecs."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._renderer = Renderer.on(device)
        self._generator = torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Tensor:
        """Float32 [B * F, 3, 224, 224] of the batch's layers, grounds and views."""
        drawn = self._renderer.draw(batch["layers"], batch["ground"], batch["views"])
        return degrade(drawn, batch["views"][:, 3], self._generator)
