"""Qwen3-VL (arXiv:2511.21631): its configurations, and its vision tower with learned positions and DeepStack."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.models import vision
from workers.models.config import (
    ExpertsConfig,
    ModelConfig,
    Section,
    TextConfig,
    VisionConfig,
    text_config,
    vision_section,
)
from workers.models.errors import CheckpointError, UnsupportedModel
from workers.models.rope import Rotation

# The clock needs no rate where frames stand behind timestamps; this is how many a second the family was trained on.
_TRAINED_FPS = 2.0


class FeedForward(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))
        return out


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.attn = vision.VisionAttention(config)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, rotation: Rotation, mix: vision.Mix) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation, mix)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerger(nn.Module):
    """Each square of neighbouring patches to one vector of the decoder's width, normalised before or once `merged`."""

    def __init__(self, config: VisionConfig, *, merged: bool) -> None:
        super().__init__()
        size = config.hidden_size * config.merge_size**2
        self.norm = nn.LayerNorm(size if merged else config.hidden_size, config.norm_eps)
        self.linear_fc1 = nn.Linear(size, size)
        self.linear_fc2 = nn.Linear(size, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.reshape(len(x), -1, *self.norm.normalized_shape))
        x = x.reshape(len(x), -1, self.linear_fc1.in_features)
        out: Tensor = self.linear_fc2(F.gelu(self.linear_fc1(x)))
        return out


class VisionTower(vision.VisionTower):
    """Tokens carry a feature of each of the deepstack blocks (DeepStack, arXiv:2406.04334) after their embedding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config, patch_bias=True)
        self.pos_embed = nn.Embedding(config.position_side**2, config.hidden_size)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config, merged=False)
        self.deepstack_merger_list = nn.ModuleList([PatchMerger(config, merged=True) for _ in config.deepstack_blocks])

    def forward(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        items, (times, height, width) = len(patches), grid
        layout = self.layout(height, width, patches.device)
        x = self.patch_embed(patches).view(items * times, height * width, -1)
        x = x + self._positions(height, width)
        mergers, deep = iter(self.deepstack_merger_list), []
        whole = vision.within(layout.whole)
        for index, block in enumerate(self.blocks):
            x = block(x, layout.rotation, whole)
            if index in self.config.deepstack_blocks:
                deep.append(next(mergers)(x))
        tokens = torch.cat((self.merger(x), *deep), dim=-1)
        return tokens.view(items, -1, tokens.shape[-1])

    def _positions(self, height: int, width: int) -> Tensor:
        """Position vectors [height * width, hidden] in the order of the patches, from the square stretched to them."""
        side, merge = self.config.position_side, self.config.merge_size
        weight = self.pos_embed.weight
        square = weight.float().T.view(1, -1, side, side)
        stretched = F.interpolate(square, (height, width), mode="bilinear", align_corners=True)
        blocks = stretched.view(-1, height // merge, merge, width // merge, merge).permute(1, 3, 2, 4, 0)
        return blocks.reshape(height * width, -1).to(weight.dtype)


def parse(root: Section) -> ModelConfig:
    """The dense model that a config.json of the family describes."""
    vision = _vision(vision_section(root))
    text = _text(root, {"head_dim": 128})
    return _with_deepstack(ModelConfig(family="qwen3_vl", text=text, vision=vision))


def parse_moe(root: Section) -> ModelConfig:
    """The model of experts that a config.json of the family describes."""
    vision, text = _vision(vision_section(root)), _text(root, {})
    text = replace(text, experts=_experts(root.section("text_config") or root, text.hidden_size))
    return _with_deepstack(ModelConfig(family="qwen3_vl_moe", text=text, vision=vision))


def _experts(section: Section, hidden_size: int) -> ExpertsConfig:
    section.expect("decoder_sparse_step", 1, default=1)
    section.expect("mlp_only_layers", [], default=[])
    section.expect("norm_topk_prob", True, default=True)
    experts = ExpertsConfig(
        count=section.integer("num_local_experts" if "num_local_experts" in section.values else "num_experts"),
        chosen=section.integer("num_experts_per_tok", 4),
        intermediate_size=section.integer("moe_intermediate_size", 1408),
    )
    if experts.chosen > experts.count:
        raise CheckpointError(f"config.json: {experts.chosen} experts a token of only {experts.count}")
    if hidden_size in (experts.intermediate_size, 2 * experts.intermediate_size):
        raise UnsupportedModel(
            f"config.json: experts of {experts.intermediate_size} by {hidden_size} are square, so that nothing tells "
            "which of the two layouts in use their tensors have"
        )
    return experts


def _text(root: Section, defaults: Mapping[str, int]) -> TextConfig:
    """Whether the head is tied is said at the root alone: transformers ignores what the inner section has."""
    section = root.section("text_config")
    if section is None:
        raise CheckpointError("config.json lacks text_config")
    section.expect("attention_bias", False, default=False)
    common = {"rms_norm_eps": 1e-6, "rope_theta": 5e5, "max_position_embeddings": 128_000}
    filled = Section(section.name, {**common, **defaults, **section.values})
    text = text_config(filled, qkv_bias=False, qk_norm=True, interleaved=True)
    if text.mrope_section is None:
        raise CheckpointError(f"config.json: {section.name} lacks mrope_section")
    return replace(text, tied_embeddings=bool(root.values.get("tie_word_embeddings", False)))


def _vision(section: Section) -> VisionConfig:
    """Absent keys mean transformers' defaults, which its newer versions leave out when saving."""
    section.expect("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    depth, places = section.integer("depth", 27), section.integer("num_position_embeddings", 2304)
    return VisionConfig(
        depth=depth,
        hidden_size=section.integer("hidden_size", 1152),
        intermediate_size=section.integer("intermediate_size", 4304),
        heads=section.integer("num_heads", 16),
        out_hidden_size=section.integer("out_hidden_size", 3584),
        patch_size=section.integer("patch_size", 16),
        temporal_patch_size=section.integer("temporal_patch_size", 2),
        merge_size=section.integer("spatial_merge_size", 2),
        window_size=0,
        full_attention_blocks=frozenset(range(depth)),
        tokens_per_second=_TRAINED_FPS,
        channels=section.integer("in_channels", 3),
        rope_theta=(section.section("rope_parameters") or section).number("rope_theta", 10_000.0),
        position_side=math.isqrt(places),
        deepstack_blocks=section.integers("deepstack_visual_indexes", (8, 16, 24)),
    )


def _with_deepstack(config: ModelConfig) -> ModelConfig:
    """The configuration, once its vision tower and decoder are found to fit each other."""
    blocks, vision = config.vision.deepstack_blocks, config.vision
    if list(blocks) != sorted(set(blocks) & set(range(vision.depth))):
        raise CheckpointError(
            f"config.json: deepstack_visual_indexes {blocks} are not blocks of {vision.depth} in order"
        )
    if len(blocks) >= config.text.layers:
        raise UnsupportedModel(
            f"config.json: {len(blocks)} deepstack levels need more than {config.text.layers} layers"
        )
    return config
