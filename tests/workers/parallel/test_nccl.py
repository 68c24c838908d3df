"""Ranks on GPUs: what they do together can be part of a graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from workers.core import Team
from workers.models.capture import Captured
from workers.parallel.team import ranks_on_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def team() -> Iterator[Team]:
    """A team of one, whose sums go through NCCL all the same."""
    torch.cuda.set_device(0)
    yield ranks_on_cuda(HashStore(), 0, 1)
    dist.destroy_process_group()


def test_sums_and_joins_are_replayed_with_the_graph_that_holds_them(team: Team) -> None:
    device = torch.device("cuda", 0)
    x = torch.ones(4, 8, device=device, dtype=torch.bfloat16)
    captured = Captured(lambda: team.joined(team.sum(x * 2) + 1).movedim(0, 1).flatten(1), device)
    assert captured.replay().tolist() == [[3.0] * 8] * 4
    x.fill_(5.0)
    assert captured.replay().tolist() == [[11.0] * 8] * 4


def test_what_one_rank_knows_is_told(team: Team) -> None:
    tokens = torch.arange(5, device="cuda")
    assert team.told(tokens).tolist() == [0, 1, 2, 3, 4]
    assert team.told(tokens[:0]).tolist() == []
