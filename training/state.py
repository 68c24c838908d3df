"""An interrupted training on disk: weights, what the optimizers remember, and the number of the next update."""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_SHARD_BYTES = 14 * 1024**2


def save_state(folder: Path, step: int, student: nn.Module, optimizers: list[Optimizer]) -> None:
    """Writes the state as files of at most 14 MiB each (a larger tensor has a file to itself).

    What the folder held before stays until the new state is whole.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _write(fresh, "weights", [(name, tensor.cpu()) for name, tensor in student.state_dict().items()])
    entries: list[tuple[str, object]] = []
    for number, optimizer in enumerate(optimizers):
        for index, memory in optimizer.state_dict()["state"].items():
            entries += [(f"{number}.{index}.{key}", _small(value)) for key, value in memory.items()]
    _write(fresh, "memory", entries)
    (fresh / "state.json").write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _write(folder: Path, kind: str, entries: list[tuple[str, object]]) -> None:
    shards: list[dict[str, object]] = [{}]
    size = 0
    for name, value in entries:
        room = value.nbytes if isinstance(value, Tensor) else 8
        if shards[-1] and size + room > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += room
    for number, shard in enumerate(shards):
        torch.save(shard, folder / f"{kind}-{number:02}.pt")


def _read(folder: Path, kind: str) -> dict[str, object]:
    entries: dict[str, object] = {}
    for path in sorted(folder.glob(f"{kind}-*.pt")):
        entries |= torch.load(path, map_location="cpu", weights_only=True)
    return entries


def load_state(folder: Path, student: nn.Module, optimizers: list[Optimizer]) -> int:
    """Brings back what `save_state` wrote; the number of the next update.

    Without its memory files the state still loads: the optimizers then begin with none.
    """
    student.load_state_dict(_read(folder, "weights"))
    remembered = _read(folder, "memory")
    for number, optimizer in enumerate(optimizers):
        memory: dict[int, dict[str, object]] = {}
        for name, value in remembered.items():
            owner, index, key = name.split(".", 2)
            if int(owner) == number:
                memory.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
    step: int = json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"]
    return step


def _small(value: object) -> object:
    """Optimizer memory in half the bytes; the optimizers widen it again when they load it."""
    return value.cpu().bfloat16() if isinstance(value, Tensor) and value.ndim else value
