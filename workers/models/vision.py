"""What the families' vision towers have in common."""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.models.afterimages import Afterimages, Glance
from workers.models.config import VisionConfig
from workers.models.fusion import Rows, rotated
from workers.models.rope import Rotation
from workers.models.windows import Run, WindowLayout, window_layout

_LAYOUTS_KEPT = 64

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries, keys, values [n, patches, heads, head_dim] to what the queries see, [n, patches, heads * head_dim]."""


class PatchEmbed(nn.Module):
    """Patches to vectors; a strided convolution in the checkpoint, which over cut-out patches is one matrix product."""

    def __init__(self, config: VisionConfig, *, bias: bool) -> None:
        super().__init__()
        self._channels, self._pictures = config.channels, config.temporal_patch_size
        self.weight = nn.Parameter(torch.empty(config.hidden_size, config.patch_dim))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [..., channels * pictures * area] to [..., hidden].

        Patches of a single picture, [..., channels * area], stand for that picture repeated.
        """
        weight: Tensor = self.weight
        if patches.shape[-1] * self._pictures == weight.shape[1]:
            weight = weight.view(len(weight), self._channels, self._pictures, -1).sum(dim=2).flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.bias)


def within(runs: tuple[Run, ...]) -> Mix:
    """Attention inside each run's windows; all windows of one shape are one batch."""

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = [_mixed(q, k, v, run) for run in runs]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)

    return mix


def _mixed(q: Tensor, k: Tensor, v: Tensor, run: Run) -> Tensor:
    pictures, patches = len(q), run.count * run.length
    shape = (pictures * run.count, run.length, *q.shape[2:])
    q, k, v = (part.narrow(1, run.start, patches).reshape(shape).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(pictures, patches, -1)


class VisionAttention(nn.Module):
    """Attention around whatever says what each patch sees."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self._heads, self._head_dim = config.heads, config.head_dim
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Rows, rotation: Rotation, mix: Mix) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self._heads, self._head_dim))
        q, k = rotated(qkv[:, :, :2].flatten(2, 3), rotation).chunk(2, dim=2)
        out: Tensor = self.proj(mix(q, k, qkv[:, :, 2]))
        return out


class VisionTower(nn.Module):
    """Pictures of one shape, any shape, to tokens; several pictures are a batch and do not see each other."""

    def __init__(self, config: VisionConfig, *, patch_bias: bool = False) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, bias=patch_bias)
        self._layouts: OrderedDict[tuple[int, int, torch.device], WindowLayout] = OrderedDict()

    def forward(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens [n, t * h * w / merge^2, width], row major, of patches [n, t * h * w, patch_dim].

        `grid` is (t, h, w) in patches, h and w multiples of the merge size; patches come in the order of
        `pixels.patches`, with all pictures of a temporal patch or with a single one that stands for all of them.
        A token is one row: its embedding and, side by side after it, one feature of the same size for each of the
        deepstack blocks, so that whatever picks tokens picks all that belongs to them. `decoder.placed` takes it apart.
        """
        raise NotImplementedError

    def afterimages(self, height: int, width: int, streams: int) -> Afterimages | None:
        """Room for what so many streams' pictures of height x width patches leave behind, to be used by `glimpse`.

        None where nothing of a picture can be spared: a family without windows, or a shape that they do not divide.
        """
        return None

    def glimpse(self, patches: Tensor, afterimages: Afterimages, glance: Glance) -> Tensor:
        """Tokens [n, h * w / merge^2, width] of pictures like `forward`'s, those of the glance's windows alone: what
        the others have is undefined."""
        raise NotImplementedError

    def layout(self, height: int, width: int, device: torch.device) -> WindowLayout:
        """The layout of a shape in patches; the shapes used last are kept, so only a new one costs device copies."""
        key = (height, width, device)
        layout = self._layouts.get(key)
        if layout is None:
            with torch.inference_mode(mode=False):  # the same layout may serve training later
                layout = self._layouts[key] = window_layout(height, width, self.config, device)
            if len(self._layouts) > _LAYOUTS_KEPT:
                self._layouts.popitem(last=False)
        else:
            self._layouts.move_to_end(key)
        return layout
