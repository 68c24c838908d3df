from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from longlook_client import AsyncClient
from tests.clients.fake_gateway import KEY, FakeGateway, serve


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with serve(FakeGateway()) as running:
        yield running


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url, KEY) as client:
        yield client
