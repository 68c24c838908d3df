"""What bench.attention has measured is what attention over such memories is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import attention as bench
from tests.workers.attention.paged import PagedReference
from workers.attention.flashinfer import FlashInferAttention
from workers.attention.plain import PlainAttention
from workers.core import KVStore

pytestmark = pytest.mark.unit


def test_each_sequence_sees_the_memory_of_its_own_session() -> None:
    torch.manual_seed(0)
    keys, values = (torch.randn(1, 1, 3 * 80, 2, 8) for _ in range(2))
    store = KVStore(keys, values, torch.zeros(1, 1, 3 * 80))
    queries = bench.sequences(3, 4, keys=48, room=80)
    seen = [set(query.parts[0].slots[0, 0]) | set(query.slots[0, 0]) for query in queries]
    assert [len(each) for each in seen] == [52] * 3
    assert not set.intersection(*seen)
    fixed = bench.planned(FlashInferAttention(store, bench.unturned, 4, PagedReference), queries)
    q = torch.randn(12, 4, 8)
    own = np.concatenate([query.slots for query in queries], axis=-1)[0, 0]
    new = keys[0, 0, own], values[0, 0, own]
    expected = PlainAttention(store, bench.unturned).plan(queries)(0, q, *new)
    torch.testing.assert_close(fixed(0, q, *new), expected, atol=1e-5, rtol=1e-5)
