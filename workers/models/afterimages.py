"""What a vision tower with windows has seen of streams, so that windows in which nothing has changed are not computed.

Up to the first block of whole attention, a window's states hang on its own pixels alone. What the others want of it
are its keys and values in the blocks of whole attention: they are kept from when it was computed last. From the second
such block on that is an approximation, since they would have heard of what changed elsewhere (reuse of states as in
Eventful Transformers, arXiv:2308.13494, by windows instead of tokens).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from workers.models.config import VisionConfig
from workers.models.rope import Rotation
from workers.models.windows import WindowLayout


class Glance(NamedTuple):
    """What is computed of some pictures: `streams` int64 [pictures] are the places of their afterimages, `windows`
    int64 [n] the windows, counted through all pictures. A window may be named twice; a stream's pictures may not meet.
    """

    streams: Tensor
    windows: Tensor


class Afterimages:
    """Keys and values in the blocks of whole attention, of all windows of one picture each of so many streams."""

    def __init__(self, config: VisionConfig, layout: WindowLayout, streams: int, dtype: torch.dtype) -> None:
        (self._run,) = layout.windows
        self.layout, self.streams = layout, streams
        self._levels = {block: level for level, block in enumerate(sorted(config.full_attention_blocks))}
        rows = streams * self._run.count
        shape = (len(self._levels), rows, self._run.length, 2, config.heads, config.head_dim)
        self._kept = torch.zeros(shape, dtype=dtype, device=layout.order.device)

    @property
    def dtype(self) -> torch.dtype:
        return self._kept.dtype

    @property
    def nbytes(self) -> int:
        return self._kept.nbytes

    @property
    def windows(self) -> int:
        """Windows of a picture."""
        return self._run.count

    def window_of(self) -> NDArray[np.int64]:
        """The window of each merged patch, row major."""
        return self.layout.inverse.cpu().numpy() // (len(self.layout.inverse) // self._run.count)

    def rotation(self, glance: Glance) -> Rotation:
        """Tables for the patches of the glance's windows, one window after the other."""
        places = glance.windows % self._run.count
        cos, sin = (
            table.view(self._run.count, self._run.length, -1).index_select(0, places).flatten(0, 1)
            for table in self.layout.rotation
        )
        return Rotation(cos, sin)

    def attend(self, block: int, glance: Glance, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the patches of the glance's windows, [1, patches, heads, head_dim], see of their pictures as a whole.

        Their keys and values take the place of those that were kept.
        """
        kept, (count, length) = self._kept[self._levels[block]], (self._run.count, self._run.length)
        pictures, shape = len(glance.streams), (len(glance.windows), length, *q.shape[2:])
        starts = glance.streams * count
        fresh = torch.stack((k.view(shape), v.view(shape)), dim=2)
        kept.index_copy_(0, starts[glance.windows // count] + glance.windows % count, fresh)
        rows = (starts[:, None] + torch.arange(count, device=starts.device)).flatten()
        seen = kept.index_select(0, rows).view(pictures, count * length, 2, *q.shape[2:])
        asked = q.new_zeros(pictures * count, *shape[1:]).index_copy_(0, glance.windows, q.reshape(shape))
        asked = asked.view(pictures, count * length, *q.shape[2:]).transpose(1, 2)
        keys, values = seen.transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(asked, keys, values)
        out = out.transpose(1, 2).reshape(pictures * count, length, -1)
        return out.index_select(0, glance.windows).view(1, len(glance.windows) * length, -1)
