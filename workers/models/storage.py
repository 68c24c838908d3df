"""Tensors in safetensors files: sharded folders, and weights kept as 8-bit integers with one scale a row.

An 8-bit tensor `NAME` has beside it `NAME.scale` of shape [rows]; its value is exactly integer times scale in float32.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workers.models.errors import CheckpointError

Storage = Literal["int8", "bfloat16", "float32"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SCALE = ".scale"
_FLOATING = ("F64", "F32", "F16", "BF16")


class TensorFolder:
    """The tensors of a folder, read one at a time; a context manager that keeps its files open."""

    def __init__(self, folder: Path) -> None:
        """CheckpointError if the folder has no safetensors files or its index is unusable."""
        self._folder = folder
        self._files = ExitStack()
        self._handles: dict[str, Any] = {}

    def __enter__(self) -> "TensorFolder":
        with ExitStack() as opened:
            for path in _weight_files(self._folder):
                handle = opened.enter_context(_open(path))
                self._handles.update(dict.fromkeys(handle.keys(), handle))
            self._files = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, scales left out, without reading any. CheckpointError for an unsupported type."""
        weights = [name for name in self._handles if not self._is_scale(name)]
        return {name: self._shape(name) for name in weights}

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU; in float32 if it is stored as 8-bit integers."""
        tensor: Tensor = self._handles[name].get_tensor(name)
        if tensor.dtype != torch.int8:
            return tensor
        scale: Tensor = self._handles[name + SCALE].get_tensor(name + SCALE)
        return dequantised(tensor, scale)

    def _is_scale(self, name: str) -> bool:
        return name.endswith(SCALE) and name.removesuffix(SCALE) in self._handles

    def _shape(self, name: str) -> tuple[int, ...]:
        piece = self._handles[name].get_slice(name)
        shape, kind = tuple(piece.get_shape()), piece.get_dtype()
        if kind == "I8":
            scale = self._handles.get(name + SCALE)
            if scale is None or tuple(scale.get_slice(name + SCALE).get_shape()) != shape[:1]:
                raise CheckpointError(f"{self._folder}: 8-bit tensor {name} lacks {name + SCALE} of shape {shape[:1]}")
        elif kind not in _FLOATING:
            raise CheckpointError(f"{self._folder}: tensor {name} has the unsupported type {kind}")
        return shape


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], storage: Storage, shard_bytes: int) -> None:
    """Tensors as sharded safetensors with an index, each shard at most `shard_bytes` unless one tensor is larger."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors:
        stored = _stored(name, tensor.detach().cpu(), storage)
        size = _size(stored)
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1].update(stored)
        room -= size
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for shard_name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / shard_name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(map(_size, shards))},
        "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit integers of a weight's shape and float32 scales [rows], one for each output row."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(dim=1) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    return (rows / scale[:, None]).round().to(torch.int8).view(weight.shape), scale


def dequantised(integers: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight that 8-bit integers and their scales stand for."""
    return (integers.flatten(1).float() * scale.float()[:, None]).view(integers.shape)


def _stored(name: str, tensor: Tensor, storage: Storage) -> dict[str, Tensor]:
    if storage == "int8" and tensor.ndim >= 2:
        integers, scale = quantised(tensor)
        return {name: integers, name + SCALE: scale}
    kind = torch.bfloat16 if storage == "bfloat16" else torch.float32
    return {name: tensor.to(kind, copy=True).contiguous()}


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _weight_files(folder: Path) -> Iterator[Path]:
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE).exists():
            raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}; other weight formats are not read")
        yield folder / SINGLE
        return
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors shards") from error
    for file in files:
        path = folder / str(file)
        if path.parent != folder or not path.exists():
            raise CheckpointError(f"{index} names {file}, which is missing; the download may be incomplete")
        yield path
