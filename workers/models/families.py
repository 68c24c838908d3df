"""The model families that can be served: how their configuration reads and what they can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from workers.models import qwen3vl, qwen25vl
from workers.models.config import ModelConfig, Section, VisionConfig, read_section
from workers.models.errors import UnsupportedModel
from workers.models.vision import VisionTower


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the engine and the policies need to know of a model beyond its shape.

    `causal_images`: a picture's tokens see only earlier ones in the decoder, so they may be prefilled in pieces.
    `windowed_vision`: the vision tower attends in windows, which may be skipped one by one.
    `deepstack`: a picture's tokens carry further features, which are added in the decoder's first layers.
    `timestamps`: a frame's session time is told in words before it, not by its positions.
    `layer_state`: what every decoder layer remembers.
    """

    causal_images: bool
    windowed_vision: bool
    deepstack: bool
    timestamps: bool
    layer_state: str = "paged_kv"


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. `default_pixels` is the area of a stream's pictures where nothing else is asked for."""

    name: str
    parse: Callable[[Section], ModelConfig]
    tower: Callable[[VisionConfig], VisionTower]
    capabilities: Capabilities
    default_pixels: int


QWEN25VL = Family(
    name="qwen2_5_vl",
    parse=qwen25vl.parse,
    tower=qwen25vl.VisionTower,
    capabilities=Capabilities(causal_images=True, windowed_vision=True, deepstack=False, timestamps=False),
    default_pixels=336 * 336,
)
QWEN3VL = Family(
    name="qwen3_vl",
    parse=qwen3vl.parse,
    tower=qwen3vl.VisionTower,
    capabilities=Capabilities(causal_images=True, windowed_vision=False, deepstack=True, timestamps=True),
    default_pixels=384 * 384,
)
QWEN3VL_MOE = replace(QWEN3VL, name="qwen3_vl_moe", parse=qwen3vl.parse_moe)
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in (QWEN25VL, QWEN3VL, QWEN3VL_MOE)})


def family_of(config: Section) -> Family:
    """The family of a config.json. UnsupportedModel, naming those that exist, for any other."""
    name = config.values.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise UnsupportedModel(f"model type {name!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return family


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a checkpoint's folder. CheckpointError or UnsupportedModel say what is wrong with it."""
    root = read_section(folder, "config.json")
    return family_of(root).parse(root)
