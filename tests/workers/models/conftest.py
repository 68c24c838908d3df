"""What the comparisons with transformers share."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from workers.models.checkpoint import Checkpoint, open_checkpoint


@pytest.fixture(scope="module")
def ours(tiny: Any) -> Checkpoint:
    """Our model of the weights of the module's `tiny`."""
    return open_checkpoint(tiny.folder)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
