"""Where each tensor of a Hugging Face checkpoint goes in our models, which hold some of them fused."""

from dataclasses import dataclass

from torch import Tensor, nn

from workers.models.config import ModelConfig
from workers.models.model import VisionLanguageModel

TIED_HEAD = "lm_head.weight"

_STACKED = ".mlp.experts."
_NESTING = (("model.visual.", "visual."), ("model.language_model.", "model."))


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows [start, start + rows) of the parameter `parameter` hold a checkpoint's tensor of shape `shape`.

    Stacked experts have inputs before outputs on the hub, and outputs before inputs when saved by transformers 5.
    """

    parameter: str
    start: int
    rows: int
    shape: tuple[int, ...]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether the checkpoint's tensor may have this shape."""
        return shape == self.shape or (_STACKED in self.parameter and shape == self._swapped)

    def of(self, parameter: Tensor) -> Tensor:
        """The part of the parameter, a view of `shape`."""
        return parameter.narrow(0, self.start, self.rows).view(self.shape)

    def upright(self, stored: Tensor) -> Tensor:
        """A tensor that this admits, inputs and outputs as here."""
        return stored if stored.shape == self.shape else stored.transpose(-1, -2)

    def sliced(self, whole: Tensor, rank: int) -> Tensor:
        """What belongs here of a checkpoint's whole tensor, if this tells where a rank's share of it goes.

        Along each side that is shorter here, the ranks' parts follow each other; an expert's gates and ups, which lie
        side by side, are divided each for itself.
        """
        sides = 2 if self.parameter.endswith(".experts.gate_up_proj") else 1
        apart = whole.reshape(*whole.shape[:-1], sides, -1)
        for side, size in enumerate((*self.shape[:-1], sides, self.shape[-1] // sides)):
            if apart.shape[side] != size:
                apart = apart.narrow(side, rank * size, size)
        return apart.flatten(-2)

    @property
    def _swapped(self) -> tuple[int, ...]:
        return (*self.shape[:-2], *self.shape[:-3:-1])


def canonical(name: str) -> str:
    """A tensor's name as Qwen2.5-VL's checkpoints have it; later families and transformers 5 nest it in `model.`."""
    for nested, plain in _NESTING:
        if name.startswith(nested):
            return plain + name.removeprefix(nested)
    return name


def published(name: str, config: ModelConfig) -> str:
    """A canonical name as the checkpoints of the model's own family have it."""
    if config.family == "qwen2_5_vl":
        return name
    for nested, plain in _NESTING:
        if name.startswith(plain):
            return nested + name.removeprefix(plain)
    return name


def placements(model: VisionLanguageModel) -> dict[str, Placement]:
    """Every tensor that a checkpoint of this model has, by its canonical name."""
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
    """The checkpoint's tensors that a parameter holds one below the other, with their rows; one unless it is fused."""
    outside = _outside(name)
    if ".qkv_proj." in name:
        text = config.text
        queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
        heights = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        return [(outside.replace("qkv_proj", part), height) for part, height in heights.items()]
    if ".gate_up_proj." in name:
        return [(outside.replace("gate_up_proj", part), rows // 2) for part in ("gate_proj", "up_proj")]
    return [(outside, rows)]


def _outside(name: str) -> str:
    room, rest = name.split(".", 1)
    if rest == TIED_HEAD:
        return rest
    rest = rest.replace("patch_embed.", "patch_embed.proj.")
    return {"vision": "visual.", "decoder": "model."}[room] + rest
