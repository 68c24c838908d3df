"""Rigs: engines on a small random model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.workers.engine.rig import Rig
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tiny_qwen25vl: Callable[..., Any]) -> Checkpoint:
    """112 x 112 pictures of 4 x 4 tokens, three layers, two KV heads."""
    return open_checkpoint(tiny_qwen25vl(seed=1).folder)


@pytest.fixture
def rig(checkpoint: Checkpoint) -> Callable[..., Rig]:
    """Makes rigs: rig(pool_tokens=..., ...), with `make` for the engine's other parts."""

    def make(make: dict[str, Any] | None = None, **settings: Any) -> Rig:
        return Rig(checkpoint, EngineSettings(**{"pool_tokens": 2048, **settings}), make or {})

    return make


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ]
)
def each_rig(request: pytest.FixtureRequest, tiny_qwen25vl: Callable[..., Any]) -> Callable[..., Rig]:
    """Makes rigs on the CPU, and in a second run of the test on the GPU, in float32."""
    checkpoint = open_checkpoint(tiny_qwen25vl(seed=1).folder, request.param)

    def make(make: dict[str, Any] | None = None, **settings: Any) -> Rig:
        return Rig(checkpoint, EngineSettings(**{"pool_tokens": 2048, **settings}), make or {})

    return make
