"""What a checkpoint's config.json says about its model, as frozen values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.models.errors import CheckpointError, UnsupportedModel


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture of experts: `count` feed-forward layers, of which each token goes through `chosen`."""

    count: int
    chosen: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Shape of a decoder.

    `trained_length` is the largest distance between positions seen in training; `mrope_section` tells how many
    frequencies turn with time, height and width (None: plain RoPE, the first axis turns them all), one axis after the
    other or, `mrope_interleaved`, in turns. `experts`: in place of every layer's one feed-forward layer.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int] | None
    trained_length: int
    qkv_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    mrope_interleaved: bool = False
    experts: ExpertsConfig | None = None


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Shape of a vision tower.

    Sizes of patches and windows are in pixels, 0 for no windows; `tokens_per_second` is the clock's rate.
    `position_side`: learned positions on a square of so many places a side, stretched over the picture (0: none).
    `deepstack_blocks`: blocks whose output is merged into further features of each token (DeepStack).
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_attention_blocks: frozenset[int]
    tokens_per_second: float
    channels: int = 3
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    position_side: int = 0
    deepstack_blocks: tuple[int, ...] = ()

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    @property
    def token_width(self) -> int:
        """Of a token as the tower gives it: its embedding, and a feature for each of the deepstack blocks."""
        return self.out_hidden_size * (1 + len(self.deepstack_blocks))

    @property
    def patch_dim(self) -> int:
        """Values in one patch over the whole temporal patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_patch(self) -> int:
        """Pixels on the side of the square that becomes one token; pictures are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def window_units(self) -> int | None:
        """Merged patches on the side of a window, None without windows."""
        return max(1, self.window_size // self.merged_patch) if self.window_size else None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A vision-language model: its family's name (Hugging Face `model_type`), decoder and vision tower."""

    family: str
    text: TextConfig
    vision: VisionConfig


@dataclass(frozen=True, slots=True)
class Section:
    """One object of config.json; reads values and names what is missing or of the wrong kind."""

    name: str
    values: Mapping[str, Any]

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"config.json: {self.name}.{key} must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"config.json: {self.name}.{key} must be a positive number, not {value!r}")
        return float(value)

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self._value(key, default)
        if not isinstance(value, (list, tuple)) or not all(type(item) is int and item >= 0 for item in value):
            raise CheckpointError(f"config.json: {self.name}.{key} must be a list of integers, not {value!r}")
        return tuple(value)

    def section(self, key: str) -> "Section | None":
        value = self.values.get(key)
        return Section(key, value) if isinstance(value, Mapping) else None

    def expect(self, key: str, expected: object, *, default: object = None) -> None:
        """UnsupportedModel unless `key` has the one value that is implemented."""
        value = self.values.get(key, default)
        if value != expected:
            raise UnsupportedModel(f"config.json: {self.name}.{key} = {value!r} is not supported, only {expected!r}")

    def _value(self, key: str, default: object) -> object:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"config.json: {self.name} lacks {key}")
        return value


def read_section(folder: Path, name: str) -> Section:
    """A JSON file of a checkpoint's folder. CheckpointError if it is missing or holds no JSON object."""
    path = folder / name
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing; {folder} is no Hugging Face model folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{path} holds no JSON object")
    return Section(name.removesuffix(".json"), values)


def vision_section(root: Section) -> Section:
    """The vision tower's part of a configuration. UnsupportedModel for quantised weights."""
    if root.values.get("quantization_config"):
        raise UnsupportedModel("config.json: quantised weights are not supported; take the original checkpoint")
    vision = root.section("vision_config")
    if vision is None:
        raise CheckpointError("config.json lacks vision_config")
    return vision


def text_config(section: Section, *, qkv_bias: bool, qk_norm: bool, interleaved: bool = False) -> TextConfig:
    """The decoder that a configuration describes, in transformers' spelling of version 4 or 5.

    `interleaved`: how the family deals frequencies to M-RoPE's axes.
    """
    section.expect("hidden_act", "silu", default="silu")
    if section.values.get("use_sliding_window"):
        raise UnsupportedModel("config.json: sliding-window attention is not supported")
    hidden_size, heads = section.integer("hidden_size"), section.integer("num_attention_heads")
    head_dim = section.integer("head_dim", hidden_size // heads)
    rope = _rope_section(section, interleaved)
    return TextConfig(
        vocab_size=section.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=section.integer("intermediate_size"),
        layers=section.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=section.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        norm_eps=section.number("rms_norm_eps"),
        rope_theta=rope.number("rope_theta", section.number("rope_theta", 10_000.0)),
        mrope_section=_mrope_section(rope, head_dim, interleaved),
        trained_length=section.integer("max_position_embeddings"),
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embeddings=bool(section.values.get("tie_word_embeddings", False)),
        mrope_interleaved=interleaved,
    )


def _rope_section(section: Section, interleaved: bool) -> Section:
    rope = section.section("rope_parameters") or section.section("rope_scaling") or Section("rope_parameters", {})
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind not in ("default", "mrope") or rope.values.get("mrope_interleaved", interleaved) != interleaved:
        raise UnsupportedModel(f"config.json: rotary embedding {dict(rope.values)!r} is not supported")
    return rope


def _mrope_section(rope: Section, head_dim: int, interleaved: bool) -> tuple[int, int, int] | None:
    if "mrope_section" not in rope.values:
        return None
    section = rope.integers("mrope_section", ())
    if len(section) != 3 or sum(section) != head_dim // 2:
        raise CheckpointError(f"config.json: mrope_section {section} does not add up to {head_dim // 2} in three parts")
    if interleaved and max(section[1:]) > section[0]:
        raise UnsupportedModel(f"config.json: interleaved mrope_section {section} gives time too few frequencies")
    return section
