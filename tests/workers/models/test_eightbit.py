"""Products in eight bits: near those in full, and on a GPU the same as by the definition on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from tests.workers.models.shapes import EXPERTS, QWEN3VL, QWEN25VL
from workers.core import FLOAT8
from workers.models import eightbit
from workers.models.config import ExpertsConfig, ModelConfig
from workers.models.eightbit import ScaledExperts, ScaledLinear, convert, in_eight_bits
from workers.models.errors import UnsupportedModel
from workers.models.experts import Experts, multiply_groups
from workers.models.fusion import Scaled, gated_scaled, scaled
from workers.models.model import VisionLanguageModel

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or find_spec("triton") is None, reason="needs CUDA and Triton"),
]
DEVICES = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.unit), pytest.param("cuda", marks=GPU)]
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def linear(inputs: int, outputs: int, *, bias: bool, kind: torch.dtype = torch.float32) -> nn.Linear:
    """A layer whose rows are of very different sizes."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-2, 1, outputs)[:, None])
    return layer.to(kind)


def by_definition(layer: ScaledLinear, x: Tensor) -> Tensor:
    """Eight-bit rows times eight-bit weights in float64, on the CPU."""
    rows = scaled(x.cpu())
    weight = layer.weight.cpu().double() * layer.scale.cpu().double().T
    out = rows.values.double() * rows.scale.double() @ weight.T
    return out if layer.bias is None else out + layer.bias.cpu().double()


@DEVICES
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 48), (3456, 1280), (5120, 512), (18_944, 64), (256, 4608), (30, 20)]
)
@pytest.mark.parametrize("rows", [0, 1, 3, 32, 33, 64, 65, 300])
@torch.inference_mode()
def test_a_product_is_what_its_definition_says(device: str, bias: bool, inputs: int, outputs: int, rows: int) -> None:
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    layer = linear(inputs, outputs, bias=bias, kind=kind).to(device)
    x = (torch.randn(rows, inputs) * torch.logspace(-2, 2, rows)[:, None]).to(kind)
    got = ScaledLinear(layer)
    out = got(x.to(device))
    assert out.dtype == kind
    assert out.shape == (rows, outputs)
    if rows:
        assert distance(out.cpu(), by_definition(got, x)) < (1e-2 if device == "cuda" else 1e-6)
        assert distance(out.cpu(), layer.double()(x.to(device).double()).cpu()) < 0.1


@pytest.mark.unit
def test_rows_that_are_scaled_already_are_taken_as_they_are() -> None:
    layer, x = ScaledLinear(linear(32, 16, bias=True)), torch.randn(2, 3, 32)
    assert torch.equal(layer(scaled(x)), layer(x))
    assert layer(x).shape == (2, 3, 16)


@pytest.mark.unit
def test_rows_of_the_weight_can_be_filled_piece_by_piece() -> None:
    source = linear(32, 16, bias=False)
    whole, pieces = ScaledLinear(source), ScaledLinear(nn.Linear(32, 16, bias=False))
    pieces.fill(0, source.weight[:5])
    pieces.fill(5, source.weight[5:])
    x = torch.randn(4, 32)
    assert torch.equal(pieces(x), whole(x))


@pytest.mark.unit
@pytest.mark.parametrize("config", [QWEN25VL, QWEN3VL, EXPERTS], ids=lambda config: config.family)
def test_a_model_is_converted_but_for_its_head_embeddings_and_routers(config: ModelConfig) -> None:
    model = VisionLanguageModel(config)
    convert(model)
    kept = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    routers = {f"decoder.layers.{number}.mlp.gate" for number in range(config.text.layers)}
    assert kept == (routers if config.text.experts else set())
    attention = [layer for name, layer in model.named_modules() if name.endswith((".qkv_proj", ".o_proj"))]
    assert len(attention) == 2 * config.text.layers
    assert all(in_eight_bits(layer) for layer in attention)
    assert model.decoder.embed_tokens.weight.dtype == torch.float32
    eight = sum(weight.numel() for weight in model.parameters() if weight.dtype == FLOAT8)
    assert eight > 0.5 * sum(weight.numel() for weight in model.parameters())


@DEVICES
@torch.inference_mode()
def test_experts_take_their_rows_as_in_full(device: str) -> None:
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    layer = Experts(256, ExpertsConfig(5, chosen=2, intermediate_size=96)).to(device, kind)
    x, rows = torch.randn(40, 256).to(device, kind), torch.randint(40, (70,), device=device)
    stops = torch.tensor([3, 3, 30, 69, 70], device=device)
    eight = ScaledExperts(layer)
    out = eight(x, rows, stops)
    assert out.dtype == kind
    assert 1e-3 < distance(out.cpu(), layer(x, rows, stops).cpu()) < 0.1
    there = Scaled(*(part[rows.cpu()] for part in scaled(x.cpu().float())))
    gate_up = multiply_groups(exact(there), in_full(eight.gate_up_proj, eight.gate_up_scale), stops.cpu())
    reference = multiply_groups(exact(gated_scaled(gate_up)), in_full(eight.down_proj, eight.down_scale), stops.cpu())
    assert distance(out.cpu(), reference) < (3e-2 if device == "cuda" else 1e-6)
    assert eight(x, rows[:0], torch.zeros_like(stops)).shape == (0, 256)


def exact(rows: Scaled) -> Tensor:
    return rows.values.float() * rows.scale


def in_full(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.float() * scale.unsqueeze(1)).cpu()


@pytest.mark.unit
@pytest.mark.parametrize("config", [QWEN25VL, QWEN3VL, EXPERTS], ids=lambda config: config.family)
@torch.inference_mode()
def test_a_converted_model_sees_and_says_nearly_the_same(config: ModelConfig) -> None:
    model = VisionLanguageModel(config).eval()
    patches = torch.randn(2, 64, config.vision.patch_dim)
    embeds, positions = torch.randn(9, config.text.hidden_size), torch.arange(9).expand(3, -1)

    def seen() -> tuple[Tensor, Tensor]:
        return model.vision(patches, (1, 8, 8)), model.decoder(embeds, model.decoder.rope.rotation(positions), first)

    before = seen()
    convert(model)
    for got, expected in zip(seen(), before, strict=True):
        assert 1e-4 < distance(got, expected) < 0.15


def first(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to nothing but each token's own value."""
    return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


@pytest.mark.unit
def test_a_gpu_without_units_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UnsupportedModel, match=r"8\.9"):
        eightbit.check(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    eightbit.check(torch.device("cuda"))
    eightbit.check(torch.device("cpu"))
