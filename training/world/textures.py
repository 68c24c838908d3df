"""The look of every class: a 96x96 picture with transparency; shapes are white and take their colour when drawn."""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.world.catalogue import ASSETS, Thing, things

SIDE = 96
_FINE = 4 * SIDE  # shapes and letters are drawn at four times the size and shrunk, which smooths their edges


@cache
def textures() -> torch.Tensor:
    """All classes' pictures by class number, uint8 [classes, 4, 96, 96] (red, green, blue, opacity)."""
    sheet = Image.open(ASSETS / "sprites.webp").convert("RGBA")
    pictures = [_picture(thing, sheet) for thing in things()]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _picture(thing: Thing, sheet: Image.Image) -> NDArray[np.uint8]:
    if thing.family == "sprite":
        row, column = divmod(thing.number, sheet.width // SIDE)
        picture = sheet.crop((column * SIDE, row * SIDE, (column + 1) * SIDE, (row + 1) * SIDE))
    elif thing.family == "shape":
        picture = _shape(thing.name)
    else:
        picture = _card(thing.name)
    return np.asarray(picture, dtype=np.uint8)


def _shape(name: str) -> Image.Image:
    mask = Image.new("L", (_FINE, _FINE))
    draw = ImageDraw.Draw(mask)
    low, high, middle = _FINE * 0.03, _FINE * 0.97, _FINE / 2
    if name in ("circle", "hoop", "crescent"):
        draw.ellipse((low, low, high, high), fill=255)
        if name == "hoop":
            draw.ellipse((_FINE * 0.27, _FINE * 0.27, _FINE * 0.73, _FINE * 0.73), fill=0)
        if name == "crescent":
            draw.ellipse((_FINE * 0.33, _FINE * -0.05, _FINE * 1.18, _FINE * 0.8), fill=0)
    elif name == "heart":
        draw.polygon(_heart(), fill=255)
    elif name == "cross":
        draw.rectangle((_FINE * 0.35, low, _FINE * 0.65, high), fill=255)
        draw.rectangle((low, _FINE * 0.35, high, _FINE * 0.65), fill=255)
    elif name == "square":
        draw.rectangle((_FINE * 0.08, _FINE * 0.08, _FINE * 0.92, _FINE * 0.92), fill=255)
    else:
        draw.polygon(_corners(name, middle, _FINE * 0.48), fill=255)
    # A darker rim keeps a shape visible on a ground of its own colour.
    body = mask.filter(ImageFilter.MinFilter(17)).point(lambda level: 110 + level * 145 // 255)
    return Image.merge("RGBA", (body, body, body, mask)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * step / 200 for step in range(200)]
    across = [16 * math.sin(a) ** 3 for a in angles]
    down = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in angles]
    return [(_FINE / 2 + x * _FINE / 34, _FINE * 0.45 - y * _FINE / 34) for x, y in zip(across, down, strict=True)]


def _corners(name: str, middle: float, radius: float) -> list[tuple[float, float]]:
    count = {"triangle": 3, "diamond": 4, "hexagon": 6, "star": 10}[name]
    dent = 0.42 if name == "star" else 1.0
    spokes = [(radius * (dent if i % 2 else 1.0), 2 * math.pi * i / count - math.pi / 2) for i in range(count)]
    return [(middle + r * math.cos(a), middle + r * math.sin(a)) for r, a in spokes]


def _card(text: str) -> Image.Image:
    card = Image.new("RGBA", (_FINE, _FINE))
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle(
        (4, _FINE * 0.26, _FINE - 4, _FINE * 0.74), _FINE * 0.06, (255, 255, 255, 255), (70, 70, 70, 255), 6
    )
    room = (_FINE * 0.92, _FINE * 0.34)
    font = ImageFont.load_default(100)
    left, top, right, bottom = font.getbbox(text)
    font = ImageFont.load_default(100 * min(room[0] / (right - left), room[1] / (bottom - top)))
    draw.text(
        (_FINE / 2, _FINE / 2),
        text,
        (10, 10, 10, 255),
        font,
        anchor="mm",
        stroke_width=3,
        stroke_fill=(10, 10, 10, 255),
    )
    return card.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
