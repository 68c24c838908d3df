"""Where each tensor of a Hugging Face checkpoint goes in our models, which hold some of them fused."""

from dataclasses import dataclass

from torch import Tensor, nn

from workers.models.config import ModelConfig
from workers.models.model import VisionLanguageModel

TIED_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows [start, start + rows) of the parameter `parameter` hold a checkpoint's tensor of shape `shape`."""

    parameter: str
    start: int
    rows: int
    shape: tuple[int, ...]

    def of(self, parameter: Tensor) -> Tensor:
        """The part of the parameter, a view of the shape that the checkpoint has."""
        return parameter.narrow(0, self.start, self.rows).view(self.shape)


def canonical(name: str) -> str:
    """A tensor's name as checkpoints on the hub have it; transformers 5 nests the same names under `model.`."""
    for nested, plain in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(nested):
            return plain + name.removeprefix(nested)
    return name


def placements(model: VisionLanguageModel) -> dict[str, Placement]:
    """Every tensor that a checkpoint of this model has, by its name on the hub."""
    table: dict[str, Placement] = {}
    for name, parameter in model.named_parameters():
        table.update(_placed(name, parameter, model.config))
    return table


def _placed(name: str, parameter: nn.Parameter, config: ModelConfig) -> dict[str, Placement]:
    start, placed = 0, {}
    for outside, rows in _parts(name, len(parameter), config):
        shape = (rows, *parameter.shape[1:])
        if name == "vision.patch_embed.weight":
            vision = config.vision
            shape = (rows, vision.channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
        placed[outside] = Placement(name, start, rows, shape)
        start += rows
    return placed


def _parts(name: str, rows: int, config: ModelConfig) -> list[tuple[str, int]]:
    """The tensors on the hub that a parameter holds one below the other, with their rows; one unless it is fused."""
    outside = _hub_name(name)
    if ".qkv_proj." in name:
        text = config.text
        queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
        heights = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        return [(outside.replace("qkv_proj", part), height) for part, height in heights.items()]
    if ".gate_up_proj." in name:
        return [(outside.replace("gate_up_proj", part), rows // 2) for part in ("gate_proj", "up_proj")]
    return [(outside, rows)]


def _hub_name(name: str) -> str:
    room, rest = name.split(".", 1)
    if rest == TIED_HEAD:
        return rest
    if rest == "patch_embed.weight":
        return "visual.patch_embed.proj.weight"
    return {"vision": "visual.", "decoder": "model."}[room] + rest
