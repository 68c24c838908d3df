"""What tests on a GPU share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises RuntimeError, as far as torch notices."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that it does not notice all
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
