"""Leaves out of the trunk what did not change, as a session with redundancy dropping does.

A patch that looks like the one last kept at its place is not written; after a while it is written all the same, so
that what stands still is not forgotten when the window moves on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.world.labels import LANES
from training.world.script import SIDE

BLOCK = 7  # pixels; four blocks make a patch's side
TOLERANCE = 6 / 255


def kept(pictures: Tensor, window: Tensor) -> Tensor:
    """Which patches are written, bool [B, F, patches], of pictures float [B, F, 3, 224, 224].

    A patch is written if in one of its blocks some colour's mean moved by more than TOLERANCE since it was last
    written, or if that is half of `window` [B] (pictures) ago. The first picture is written whole.
    """
    count, frames = pictures.shape[:2]
    means = F.avg_pool2d(pictures.flatten(0, 1), BLOCK)
    side = SIDE // BLOCK // LANES
    looks = means.view(count, frames, 3, LANES, side, LANES, side).permute(1, 0, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
    limit = (window // 2).clamp(min=1)[:, None]
    last, age = looks[0], torch.zeros(looks.shape[1:3], dtype=limit.dtype, device=limit.device)
    written = [torch.ones_like(age, dtype=torch.bool)]
    for look in looks[1:]:
        age = age + 1
        fresh = ((look - last).abs().amax(-1) > TOLERANCE) | (age >= limit)
        last, age = torch.where(fresh[..., None], look, last), torch.where(fresh, 0, age)
        written.append(fresh)
    return torch.stack(written, 1)


def thinned(batch: dict[str, Tensor], pictures: Tensor) -> dict[str, Tensor]:
    """The batch with patches that are not written hidden from everyone, in its examples that are marked `thin`."""
    thin, window = batch["thin"], batch["window"]
    count = len(thin)
    hidden = ~kept(pictures.view(count, -1, *pictures.shape[1:]), window).flatten(1) & thin[:, None]
    until = batch["until"].scatter(1, batch["pads"], torch.where(hidden, 0, batch["until"].gather(1, batch["pads"])))
    return {**batch, "until": until}
