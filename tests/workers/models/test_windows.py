from dataclasses import replace

import pytest
import torch

from tests.workers.models.shapes import QWEN25VL
from workers.models.qwen25vl import VisionTower
from workers.models.windows import Run, WindowLayout, window_layout

pytestmark = pytest.mark.unit

CONFIG = replace(QWEN25VL.vision, out_hidden_size=24)
CPU = torch.device("cpu")


def layout(height: int, width: int) -> WindowLayout:
    return window_layout(height, width, CONFIG, CPU)


def test_whole_windows_are_one_batch() -> None:
    assert layout(8, 8).windows == (Run(0, 4, 16),)
    assert layout(8, 8).order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_ragged_windows_are_batches_of_their_own() -> None:
    ragged = layout(6, 10)  # 3 x 5 units under windows of 2 x 2
    assert ragged.windows == (Run(0, 2, 16), Run(32, 1, 8), Run(40, 2, 8), Run(56, 1, 4))
    assert ragged.order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert ragged.whole == (Run(0, 1, 60),)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 4), (6, 10), (8, 8), (10, 18), (2, 14)])
def test_every_patch_is_in_one_window_and_finds_its_way_back(height: int, width: int) -> None:
    made = layout(height, width)
    units = torch.arange(height * width // 4)
    assert torch.equal(made.order[made.inverse], units)
    assert torch.equal(made.inverse[made.order], units)
    assert sum(run.count * run.length for run in made.windows) == height * width
    assert made.rotation.cos.shape == (height * width, CONFIG.head_dim)


def test_patches_outside_a_window_are_unseen_without_full_attention() -> None:
    torch.manual_seed(0)
    tower = VisionTower(replace(CONFIG, full_attention_blocks=frozenset())).eval()
    patches = torch.randn(1, 60, CONFIG.patch_dim)
    changed = patches.clone()
    changed[0, -1] += 1.0  # the last unit, in the corner window of one unit
    with torch.no_grad():
        moved = (tower(patches, (1, 6, 10)) != tower(changed, (1, 6, 10))).any(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == [14]


def test_layouts_are_kept_for_the_shapes_used_last_only() -> None:
    tower = VisionTower(CONFIG)
    first = tower.layout(2, 2, CPU)
    assert tower.layout(2, 2, CPU) is first
    for width in range(4, 140, 2):
        tower.layout(2, width, CPU)
    assert tower.layout(2, 2, CPU) is not first


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    tower = VisionTower(CONFIG)
    with torch.inference_mode():
        tower(torch.randn(1, 60, CONFIG.patch_dim), (1, 6, 10))
    tower(torch.randn(3, 60, CONFIG.patch_dim), (1, 6, 10)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in tower.parameters())
