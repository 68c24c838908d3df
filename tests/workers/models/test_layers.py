"""What layers owe to speed: nothing of it may change what comes out."""

from __future__ import annotations

import pytest
import torch

from workers.models.eightbit import convert
from workers.models.layers import SwiGLU

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("eight", [False, True])
def test_a_padded_layer_gives_the_same(bias: bool, eight: bool) -> None:
    torch.manual_seed(0)
    layer, x = SwiGLU(16, 36, bias=bias), torch.randn(5, 16)
    if eight:
        convert(layer)
    with torch.no_grad():
        expected = layer(x)
        for _ in range(2):
            layer.pad(64)
            torch.testing.assert_close(layer(x), expected)
    assert layer.down_proj.weight.shape == (16, 64)
    assert layer.gate_up_proj.weight.shape == (128, 16)
