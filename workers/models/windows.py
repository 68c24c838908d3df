"""How a picture's patches are ordered for window attention, and where each of them stands."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.models.config import VisionConfig
from workers.models.rope import Rotation, frequencies, halves_rotation


@dataclass(frozen=True, slots=True)
class Run:
    """`count` windows of `length` patches each, one after another from patch `start` on."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """The order in which one picture shape is computed.

    Merged patches ("units") are sorted window by window, windows of one shape together: at most four shapes exist
    (whole, cut at the right, at the bottom, at both), so each is one attention batch and none needs padding or a mask.
    `order` int64 [units] sorts row-major units, `inverse` undoes it; `rotation` has tables [patches, head_dim] in
    sorted order.
    """

    order: Tensor
    inverse: Tensor
    windows: tuple[Run, ...]
    whole: tuple[Run, ...]
    rotation: Rotation


def window_layout(height: int, width: int, config: VisionConfig, device: torch.device) -> WindowLayout:
    """The layout of a picture of height x width patches."""
    merge = config.merge_size
    rows, columns = height // merge, width // merge
    order, windows = _window_order(rows, columns, config.window_units or max(rows, columns), merge**2)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    cos, sin = _axial_rotation(order, columns, config)
    return WindowLayout(
        order=torch.from_numpy(order).to(device),
        inverse=torch.from_numpy(inverse).to(device),
        windows=windows,
        whole=(Run(0, 1, height * width),),
        rotation=Rotation(cos.to(device), sin.to(device)),
    )


def _window_order(
    rows: int, columns: int, side: int, patches_per_unit: int
) -> tuple[NDArray[np.int64], tuple[Run, ...]]:
    units = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    by_shape: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            window = units[top : top + side, left : left + side]
            by_shape.setdefault(window.shape, []).append(window.ravel())
    runs, start = [], 0
    for windows in by_shape.values():
        run = Run(start, len(windows), len(windows[0]) * patches_per_unit)
        runs.append(run)
        start += run.count * run.length
    return np.concatenate([window for windows in by_shape.values() for window in windows]), tuple(runs)


def _axial_rotation(order: NDArray[np.int64], columns: int, config: VisionConfig) -> Rotation:
    """Half of the frequencies turn with a patch's row, half with its column."""
    merge = config.merge_size
    inner = np.arange(merge**2)
    patch_rows = (order // columns * merge)[:, None] + inner // merge
    patch_columns = (order % columns * merge)[:, None] + inner % merge
    places = torch.from_numpy(np.stack([patch_rows.ravel(), patch_columns.ravel()], axis=1))
    angles = places.float().unsqueeze(-1) * frequencies(config.head_dim // 2, config.rope_theta)
    return halves_rotation(angles.flatten(1))
