"""What ranks do together, between CPUs and between GPUs, where a graph can hold it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from tests.workers.parallel.pair import at_once
from workers.core import Team
from workers.models.capture import Captured
from workers.parallel.team import ranks_on_cpu, ranks_on_cuda

pytestmark = pytest.mark.unit


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ]
)
def alone(request: pytest.FixtureRequest) -> Iterator[tuple[Team, torch.device]]:
    """A team of one, which goes through gloo or NCCL all the same."""
    if request.param == "cpu":
        yield ranks_on_cpu(HashStore(), 0, 1), torch.device("cpu")
        return
    torch.cuda.set_device(0)
    yield ranks_on_cuda(HashStore(), 0, 1), torch.device("cuda", 0)
    dist.destroy_process_group()


def test_sums_and_joins_are_replayed_with_the_graph_that_holds_them(alone: tuple[Team, torch.device]) -> None:
    team, device = alone
    x = torch.ones(4, 8, device=device, dtype=torch.bfloat16)
    captured = Captured(lambda: team.joined(team.sum(x * 2) + 1).movedim(0, 1).flatten(1), device)
    assert captured.replay().tolist() == [[3.0] * 8] * 4
    x.fill_(5.0)
    assert captured.replay().tolist() == [[11.0] * 8] * 4


def test_nothing_is_told_and_summed_as_nothing(alone: tuple[Team, torch.device]) -> None:
    team, device = alone
    nothing = torch.zeros(0, 8, device=device)
    assert team.told(nothing).shape == team.sum(nothing).shape == (0, 8)
    assert team.joined(nothing).shape == (1, 0, 8)


def test_every_rank_comes_to_the_same() -> None:
    def work(team: Team) -> list[list[int]]:
        mine = torch.tensor([team.rank + 1, 10 * team.rank])
        return [
            team.sum(mine.clone()).tolist(),
            team.told(mine.clone(), by=2).tolist(),
            team.joined(mine).flatten().tolist(),
        ]

    assert at_once(3, work) == [[[6, 30], [3, 20], [1, 0, 2, 10, 3, 20]]] * 3
