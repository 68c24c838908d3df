"""What the engine and training count on beyond the right numbers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.workers.cuda import without_waiting
from tests.workers.models.shapes import EXPERTS, QWEN3VL, QWEN25VL
from workers.models.config import ModelConfig
from workers.models.decoder import placed
from workers.models.model import VisionLanguageModel, empty_model

ALL = pytest.mark.parametrize("config", [QWEN25VL, QWEN3VL, EXPERTS], ids=lambda config: config.family)


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def see_and_read(model: VisionLanguageModel, patches: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Logits after the last of the tokens, which follow one picture of 6 x 10 patches."""
    decoder = model.decoder
    seen = model.vision(patches, (1, 6, 10))[0]
    pads = tokens.new_zeros(len(seen))
    places = torch.arange(len(seen), device=tokens.device)
    embeds, deepstack = placed(decoder.embed(torch.cat((pads, tokens))), places, seen)
    return decoder.logits(decoder(embeds, decoder.rope.rotation(positions), causal, slice(-1, None), deepstack))


def inputs(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    patches = torch.randn(1, 60, QWEN25VL.vision.patch_dim, device=device, dtype=dtype)
    positions = torch.arange(20, device=device).expand(3, -1)
    return patches, torch.arange(5, device=device), positions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        *((config, dtype) for config in (QWEN25VL, QWEN3VL) for dtype in (torch.float32, torch.bfloat16)),
        (EXPERTS, torch.bfloat16),
    ],
)
def test_no_value_is_ever_read_by_the_host(config: ModelConfig, dtype: torch.dtype) -> None:
    """On the meta device tensors have no values, so whatever made the host wait for one would fail."""
    meta = torch.device("meta")
    model = empty_model(config, meta, dtype)
    logits = see_and_read(model, *inputs(meta, dtype))
    assert logits.shape == (1, 50)
    assert logits.dtype == dtype


@pytest.mark.unit
@ALL
def test_training_reaches_every_weight_through_both_parts(config: ModelConfig) -> None:
    model = VisionLanguageModel(config)
    loss = see_and_read(model, *inputs(torch.device("cpu"))).logsumexp(dim=-1).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    unreached = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
    assert unreached == []


@pytest.mark.unit
@pytest.mark.parametrize("config", [QWEN25VL, QWEN3VL], ids=lambda config: config.family)
def test_the_compiler_sees_one_graph(config: ModelConfig) -> None:
    model = VisionLanguageModel(config)
    compiled = torch.compile(see_and_read, fullgraph=True, backend="eager")
    arguments = inputs(torch.device("cpu"))
    with torch.no_grad():
        see_and_read(model, *arguments)  # the layout of a shape is made once, outside any graph
        torch.testing.assert_close(compiled(model, *arguments), see_and_read(model, *arguments))


@pytest.mark.unit
@ALL
def test_half_precision_stays_close(config: ModelConfig) -> None:
    model, arguments = VisionLanguageModel(config), inputs(torch.device("cpu"))
    with torch.no_grad():
        exact = see_and_read(model, *arguments)
        half = see_and_read(model.bfloat16(), *arguments).float()
    assert (exact - half).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@ALL
def test_cuda_runs_without_waiting_and_agrees_with_the_processor(config: ModelConfig) -> None:
    cuda = torch.device("cuda")
    model = VisionLanguageModel(replace(config, text=replace(config.text, tied_embeddings=False))).eval()
    arguments = inputs(torch.device("cpu"))
    with torch.inference_mode():
        expected = see_and_read(model, *arguments)
        model = model.to(cuda, torch.bfloat16)
        there = tuple(argument.to(cuda) for argument in arguments)
        see_and_read(model, *there)
        with without_waiting():
            logits = see_and_read(model, *there)
    assert (logits.float().cpu() - expected).abs().max() < 0.05 * expected.abs().max()
