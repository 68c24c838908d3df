"""The renderer: layers to pictures, batched, in plain torch, on the CPU and on the GPU alike."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from training.world.backgrounds import SIDE as GROUND_SIDE
from training.world.backgrounds import backgrounds
from training.world.script import SIDE
from training.world.textures import textures

TILE = 104  # no layer is wider, tilt included


@dataclass(frozen=True)
class Renderer:
    """Draws pictures on one device; holds the looks of things and backgrounds there."""

    looks: torch.Tensor
    grounds: torch.Tensor

    @classmethod
    def on(cls, device: torch.device) -> "Renderer":
        return cls((textures().to(device).float() / 255), backgrounds().to(device))

    def draw(self, layers: torch.Tensor, ground: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Pictures float32 [N, 3, 224, 224], 0 to 1.

        `layers` [N, L, 11], `ground` int64 [N] and `views` [N, 4] as in `Cast`, on the renderer's device. Noise is
        `degrade`'s, which has the randomness.
        """
        canvas = self._ground(ground, views)
        number, picture = torch.nonzero(layers[:, :, 0].T >= 0).unbind(1)
        filled = torch.bincount(number, minlength=layers.shape[1]).tolist()
        for layer, having in enumerate(torch.split(picture, filled)):
            if len(having):
                self._paint(canvas, having, layers[having, layer])
        return (canvas * views[:, 2, None, None, None]).clamp(0, 1)

    def _ground(self, ground: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        room = (GROUND_SIDE - SIDE) // 2
        line = torch.arange(SIDE, device=ground.device)
        left = (room - views[:, 0].round().long()).clamp(0, 2 * room)
        top = (room - views[:, 1].round().long()).clamp(0, 2 * room)
        index = ((top[:, None] + line) * GROUND_SIDE)[:, :, None] + (left[:, None] + line)[:, None, :]
        whole = self.grounds[ground].flatten(2)
        cut = whole.gather(2, index.view(len(ground), 1, -1).expand(-1, 3, -1))
        return cut.view(-1, 3, SIDE, SIDE).float() / 255

    def _paint(self, canvas: torch.Tensor, having: torch.Tensor, layer: torch.Tensor) -> None:
        """Lays `layer` [n, 11] over the pictures `having` [n] of the canvas, in place."""
        texture, x, y, width, tilt, opacity = layer[:, :6].unbind(1)
        line = torch.arange(TILE, device=canvas.device)
        left = (x - TILE / 2).round().long().clamp(0, SIDE - TILE)
        top = (y - TILE / 2).round().long().clamp(0, SIDE - TILE)
        across = (left[:, None] + line).float() + 0.5 - x[:, None]
        down = (top[:, None] + line).float() + 0.5 - y[:, None]
        cos, sin = (f(tilt)[:, None, None] * 2 / width[:, None, None] for f in (torch.cos, torch.sin))
        grid_x = cos * across[:, None, :] + sin * down[:, :, None]
        grid_y = cos * down[:, :, None] - sin * across[:, None, :]
        looks = self.looks[texture.long()]
        tile = F.grid_sample(looks, torch.stack([grid_x, grid_y], -1), align_corners=False)
        colour = tile[:, :3] * layer[:, 6:9, None, None]
        cover = tile[:, 3:] * opacity[:, None, None, None]
        index = ((top[:, None] + line) * SIDE)[:, :, None] + (left[:, None] + line)[:, None, :]
        planes = (having[:, None] * 3 + torch.arange(3, device=canvas.device)) * (SIDE * SIDE)
        index = planes[:, :, None, None] + index[:, None]
        flat = canvas.view(-1)
        below = flat[index]
        flat[index] = below + (colour - below) * cover
