"""Where tests of kernels in Triton run: on a GPU, or anywhere in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

TRITON = find_spec("triton") is not None
INTERPRETED = TRITON and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
KIND = torch.float32 if INTERPRETED else torch.bfloat16  # NumPy, which interprets, has no other
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not TRITON or not (INTERPRETED or torch.cuda.is_available()), reason="needs CUDA and Triton"),
]
