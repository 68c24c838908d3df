"""Checkpoints in the Hugging Face layout: opened whole for serving, and saved by training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from workers.core import ALONE, Team
from workers.models.chat import Chat
from workers.models.config import ModelConfig, read_section
from workers.models.eightbit import ScaledExperts, ScaledLinear, Weights, convert
from workers.models.errors import CheckpointError
from workers.models.families import Family, family_of
from workers.models.model import VisionLanguageModel, empty_model
from workers.models.naming import TIED_HEAD, Placement, canonical, placements, published
from workers.models.pixels import PixelFormat
from workers.models.storage import Storage, TensorFolder, write_tensors
from workers.models.tokenizer import Tokenizer

_SHARD_BYTES = 48 * 1024**2
_NAMED = 5

LoadModel = Callable[[Path, ModelConfig, torch.device | str, torch.dtype], VisionLanguageModel]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything of a model's folder that serving it takes."""

    folder: Path
    family: Family
    config: ModelConfig
    model: VisionLanguageModel
    tokenizer: Tokenizer
    chat: Chat
    pixels: PixelFormat


def open_checkpoint(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    load: LoadModel | None = None,
    weights: Weights | None = None,
) -> Checkpoint:
    """A folder's model on `device` in `dtype`, with its tokenizer, chat grammar and pixel format.

    `load` makes the model; default: `load_model`. `weights`: fp8 for matrices in eight bits. ModelError
    (CheckpointError, TokenizerError, UnsupportedModel) says what is wrong with the folder.
    """
    root = read_section(folder, "config.json")
    family = family_of(root)
    config = family.parse(root)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.size > config.text.vocab_size:
        raise CheckpointError(f"{folder}: tokenizer has {tokenizer.size} ids, the model only {config.text.vocab_size}")
    model = (load or partial(load_model, weights=weights))(folder, config, device, dtype)
    if weights == "fp8":
        convert(model)
    return Checkpoint(
        folder=folder,
        family=family,
        config=config,
        model=model,
        tokenizer=tokenizer,
        chat=Chat(tokenizer, config.vision.tokens_per_second, timestamps=family.capabilities.timestamps),
        pixels=PixelFormat.from_folder(folder, config.vision, family.default_pixels),
    )


def load_model(
    folder: Path,
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    team: Team = ALONE,
    weights: Weights | None = None,
) -> VisionLanguageModel:
    """The folder's weights in a new model, in evaluation mode; in a `team`, this rank's share of them.

    Those that are to be in eight bits are never on the device in full.

    CheckpointError names tensors that are missing, unexpected or of another shape, before any weight is read.
    """
    with TensorFolder(folder) as tensors:
        model = empty_model(config, torch.device(device), dtype, team, weights)
        with torch.device("meta"):
            table = placements(VisionLanguageModel(config))
        shapes = tensors.shapes()
        names = {canonical(name): name for name in shapes}
        if config.text.tied_embeddings:
            names.pop(TIED_HEAD, None)
        _check(folder, table, {name: shapes[stored] for name, stored in names.items()})
        shares = placements(model)
        for name, placement in table.items():
            whole, share = placement.upright(tensors.read(names[name])), shares[name]
            _put(model, share, share.sliced(whole, team.rank))
    return model


def save_model(
    model: VisionLanguageModel, folder: Path, storage: Storage = "int8", shard_bytes: int = _SHARD_BYTES
) -> None:
    """The model's weights under their names on the hub, as shards with an index; other files are left alone."""
    parameters = dict(model.named_parameters())
    parts = (
        (published(name, model.config), placement.of(parameters[placement.parameter]))
        for name, placement in placements(model).items()
    )
    write_tensors(folder, parts, storage, shard_bytes)


@torch.no_grad()
def _put(model: VisionLanguageModel, place: Placement, tensor: Tensor) -> None:
    layer = model.get_submodule(place.parameter.rpartition(".")[0])
    if isinstance(layer, ScaledLinear) and place.parameter.endswith(".weight"):
        layer.fill(place.start, tensor)
    elif isinstance(layer, ScaledExperts):
        layer.fill(place.parameter.rpartition(".")[2], tensor)
    else:
        place.of(model.get_parameter(place.parameter)).copy_(tensor)


def _check(folder: Path, table: dict[str, Placement], shapes: dict[str, tuple[int, ...]]) -> None:
    problems = []
    for kind, names in (("missing", table.keys() - shapes.keys()), ("unexpected", shapes.keys() - table.keys())):
        if names:
            listed = ", ".join(sorted(names)[:_NAMED])
            problems.append(f"{len(names)} {kind} ({listed}{', ...' if len(names) > _NAMED else ''})")
    problems += [
        f"{name} has shape {shapes[name]}, the configuration calls for {table[name].shape}"
        for name in sorted(table.keys() & shapes.keys())
        if not table[name].admits(shapes[name])
    ][:_NAMED]
    if problems:
        raise CheckpointError(f"{folder}: tensors do not fit config.json: {'; '.join(problems)}")
