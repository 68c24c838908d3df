"""Qwen2.5-VL (arXiv:2502.13923): its configuration, and its vision tower with windows and 2 x 2 merging."""

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from workers.models import vision
from workers.models.afterimages import Afterimages, Glance
from workers.models.config import ModelConfig, Section, TextConfig, VisionConfig, text_config, vision_section
from workers.models.errors import CheckpointError
from workers.models.layers import RMSNorm, SwiGLU
from workers.models.rope import Rotation
from workers.models.windows import Run, WindowLayout


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, config.norm_eps)
        self.norm2 = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = vision.VisionAttention(config)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, rotation: Rotation, mix: vision.Mix) -> Tensor:
        x, normed = self.norm1.sum(x, None, self.attn.qkv)
        x, normed = self.norm2.sum(x, self.attn(normed, rotation, mix), self.mlp.reader)
        out: Tensor = x + self.mlp(normed)
        return out


class PatchMerger(nn.Module):
    """Each square of neighbouring patches to one token of the decoder's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        merged = config.hidden_size * config.merge_size**2
        self.ln_q = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config.out_hidden_size))

    def forward(self, x: Tensor, units: int) -> Tensor:
        tokens: Tensor = self.mlp(self.ln_q(x).reshape(len(x), units, -1))
        return tokens


class VisionTower(vision.VisionTower):
    """Merged patches are sorted by window on the way in and back into rows on the way out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        items, (times, height, width) = len(patches), grid
        layout = self.layout(height, width, patches.device)
        x = self._sorted(patches.view(items * times, height * width, -1), layout)
        windows, whole = vision.within(layout.windows), vision.within(layout.whole)
        for index, block in enumerate(self.blocks):
            x = block(x, layout.rotation, whole if index in self.config.full_attention_blocks else windows)
        tokens: Tensor = self.merger(x, len(layout.order)).index_select(1, layout.inverse)
        return tokens.view(items, times * len(layout.order), -1)

    def afterimages(self, height: int, width: int, streams: int) -> Afterimages | None:
        weight = self.merger.ln_q.weight
        layout = self.layout(height, width, weight.device)
        if len(layout.windows) > 1 or layout.windows == layout.whole:
            return None
        return Afterimages(self.config, layout, streams, weight.dtype)

    def glimpse(self, patches: Tensor, afterimages: Afterimages, glance: Glance) -> Tensor:
        layout = afterimages.layout
        (run,) = layout.windows
        x = self._sorted(patches, layout).view(len(patches) * run.count, run.length, -1)
        x = x.index_select(0, glance.windows).view(1, len(glance.windows) * run.length, -1)
        rotation, alone = afterimages.rotation(glance), vision.within((Run(0, len(glance.windows), run.length),))
        for index, block in enumerate(self.blocks):
            full = index in self.config.full_attention_blocks
            x = block(x, rotation, partial(afterimages.attend, index, glance) if full else alone)
        units = run.length // self.config.merge_size**2
        seen: Tensor = self.merger(x, len(glance.windows) * units).view(len(glance.windows), units, -1)
        tokens = seen.new_zeros(len(patches) * run.count, units, seen.shape[-1]).index_copy(0, glance.windows, seen)
        return tokens.view(len(patches), run.count * units, -1).index_select(1, layout.inverse)

    def _sorted(self, patches: Tensor, layout: WindowLayout) -> Tensor:
        """Patches [n, h * w, patch_dim] as vectors [n, h * w, hidden], window by window."""
        x: Tensor = self.patch_embed(patches).view(len(patches), len(layout.order), -1)
        return x.index_select(1, layout.order).view(*patches.shape[:2], -1)


def parse(root: Section) -> ModelConfig:
    """The model that a config.json of the family describes."""
    return ModelConfig(family="qwen2_5_vl", text=_text(root), vision=_vision(vision_section(root)))


def _text(root: Section) -> TextConfig:
    section = root.section("text_config") or root
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32_768}
    text = text_config(Section(section.name, {**defaults, **section.values}), qkv_bias=True, qk_norm=False)
    if text.mrope_section is None:
        raise CheckpointError(f"config.json: {section.name} lacks mrope_section")
    return replace(text, tied_embeddings=text.tied_embeddings or bool(root.values.get("tie_word_embeddings", False)))


def _vision(section: Section) -> VisionConfig:
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
