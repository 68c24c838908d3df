"""The model families that can be served: how their configuration reads and what they can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from workers.models.config import ModelConfig, Section, TextConfig, VisionConfig, read_section, text_config
from workers.models.errors import CheckpointError, UnsupportedModel


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the engine and the policies need to know of a model beyond its shape.

    `causal_images`: a picture's tokens see only earlier ones in the decoder, so they may be prefilled in pieces.
    `windowed_vision`: the vision tower attends in windows, which may be skipped one by one.
    `deepstack_layers`: decoder layers into which further vision features are added; the keep-index slices all of them.
    `layer_state`: what every decoder layer remembers.
    """

    causal_images: bool
    windowed_vision: bool
    deepstack_layers: tuple[int, ...]
    layer_state: str = "paged_kv"


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. `default_pixels` is the area of a stream's pictures where nothing else is asked for."""

    name: str
    parse: Callable[[Section], ModelConfig]
    capabilities: Capabilities
    default_pixels: int


def _qwen25vl_config(root: Section) -> ModelConfig:
    if root.values.get("quantization_config"):
        raise UnsupportedModel("config.json: quantised weights are not supported; take the original checkpoint")
    vision = root.section("vision_config")
    if vision is None:
        raise CheckpointError("config.json lacks vision_config")
    text = _qwen25vl_text(root)
    return ModelConfig(family="qwen2_5_vl", text=text, vision=_qwen25vl_vision(vision))


def _qwen25vl_text(root: Section) -> TextConfig:
    section = root.section("text_config") or root
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32_768}
    text = text_config(Section(section.name, {**defaults, **section.values}), qkv_bias=True, qk_norm=False)
    if text.mrope_section is None:
        raise CheckpointError(f"config.json: {section.name} lacks mrope_section")
    return replace(text, tied_embeddings=text.tied_embeddings or bool(root.values.get("tie_word_embeddings", False)))


def _qwen25vl_vision(section: Section) -> VisionConfig:
    """Absent keys mean transformers' defaults, which its newer versions leave out when saving."""
    section.expect("hidden_act", "silu", default="silu")
    return VisionConfig(
        depth=section.integer("depth", 32),
        hidden_size=section.integer("hidden_size", 3584),
        intermediate_size=section.integer("intermediate_size", 3420),
        heads=section.integer("num_heads", 16),
        out_hidden_size=section.integer("out_hidden_size", 3584),
        patch_size=section.integer("patch_size", 14),
        temporal_patch_size=section.integer("temporal_patch_size", 2),
        merge_size=section.integer("spatial_merge_size", 2),
        window_size=section.integer("window_size", 112),
        full_attention_blocks=frozenset(section.integers("fullatt_block_indexes", (7, 15, 23, 31))),
        tokens_per_second=section.number("tokens_per_second", 4),
        channels=section.integer("in_channels", section.integer("in_chans", 3)),
        rope_theta=(section.section("rope_parameters") or section).number("rope_theta", 10_000.0),
    )


QWEN25VL = Family(
    name="qwen2_5_vl",
    parse=_qwen25vl_config,
    capabilities=Capabilities(causal_images=True, windowed_vision=True, deepstack_layers=()),
    default_pixels=336 * 336,
)
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in (QWEN25VL,)})


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
