import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.workers.cuda import without_waiting
from workers.models.config import ExpertsConfig
from workers.models.experts import MixtureOfExperts, multiply_groups

pytestmark = pytest.mark.unit

CONFIG = ExpertsConfig(count=5, chosen=2, intermediate_size=24)


@pytest.fixture
def layer() -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(16, CONFIG)


def token_by_token(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """The definition: each token through its experts, one after the other."""
    outputs = []
    for token in x:
        scores, chosen = layer.gate(token).softmax(dim=-1).topk(CONFIG.chosen)
        output = torch.zeros_like(token)
        for score, expert in zip(scores / scores.sum(), chosen.tolist(), strict=True):
            gate, up = (token @ layer.experts.gate_up_proj[expert]).chunk(2)
            output = output + score * ((F.silu(gate) * up) @ layer.experts.down_proj[expert])
        outputs.append(output)
    return torch.stack(outputs)


def test_each_token_goes_through_its_own_experts(layer: MixtureOfExperts) -> None:
    x = torch.randn(40, 16)
    torch.testing.assert_close(layer(x), token_by_token(layer, x))


def test_a_token_never_depends_on_those_beside_it(layer: MixtureOfExperts) -> None:
    x = torch.randn(40, 16)
    torch.testing.assert_close(layer(x)[7:8], layer(x[7:8]))


def test_experts_that_nobody_chose_and_no_tokens_at_all(layer: MixtureOfExperts) -> None:
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.weight[3], layer.gate.weight[1] = 1, 0.5
    x = torch.rand(6, 16)
    torch.testing.assert_close(layer(x), token_by_token(layer, x))
    assert layer(x[:0]).shape == (0, 16)


def test_the_grouped_kernel_multiplies_like_the_reference() -> None:
    x, weights = torch.randn(10, 16), torch.randn(4, 16, 32)
    stops = torch.tensor([3, 3, 9, 10])
    kernel = F.grouped_mm(x, weights, offs=stops.int())
    torch.testing.assert_close(multiply_groups(x, weights, stops), kernel)


def test_half_precision_off_the_processor_asks_nothing_of_the_host(layer: MixtureOfExperts) -> None:
    """On the meta device tensors have no values, so whatever made the host wait for one would fail."""
    half = layer.to(torch.device("meta"), torch.bfloat16)
    assert half(torch.empty(8, 16, device="meta", dtype=torch.bfloat16)).shape == (8, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tokens", [0, 1, 40])
def test_cuda_agrees_with_the_processor_and_with_itself(layer: MixtureOfExperts, tokens: int) -> None:
    x = torch.randn(tokens, 16).bfloat16()
    expected = layer.bfloat16().float()(x.float())
    there, x = layer.to("cuda", torch.bfloat16), x.cuda()
    with without_waiting():
        once, again = there(x), there(x)
    assert torch.equal(once, again)
    torch.testing.assert_close(once.float().cpu(), expected, atol=0.03, rtol=0.03)
