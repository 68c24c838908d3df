import asyncio

import pytest

from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import TokenExpired, TokenUsed, Unauthorized
from tests.conformance.samples import OTHER, SESSION

pytestmark = pytest.mark.conformance


async def test_a_token_is_good_once(bus: Bus) -> None:
    token = await bus.tokens.issue(SESSION, "connect", life_ms=60_000)
    assert await bus.tokens.consume(SESSION, token) == "connect"
    with pytest.raises(TokenUsed):
        await bus.tokens.consume(SESSION, token)


async def test_of_many_uses_at_once_one_succeeds(bus: Bus) -> None:
    token = await bus.tokens.issue(SESSION, "resume", life_ms=60_000)
    results = await asyncio.gather(*(bus.tokens.consume(SESSION, token) for _ in range(20)), return_exceptions=True)
    assert results.count("resume") == 1
    assert sum(isinstance(result, TokenUsed) for result in results) == 19


async def test_a_token_is_good_for_its_session_alone(bus: Bus) -> None:
    token = await bus.tokens.issue(SESSION, "connect", life_ms=60_000)
    with pytest.raises(Unauthorized) as refused:
        await bus.tokens.consume(OTHER, token)
    assert not isinstance(refused.value, TokenUsed | TokenExpired)
    assert await bus.tokens.consume(SESSION, token) == "connect"


async def test_an_expired_token_says_so(bus: Bus) -> None:
    token = await bus.tokens.issue(SESSION, "connect", life_ms=-1)
    with pytest.raises(TokenExpired):
        await bus.tokens.consume(SESSION, token)


async def test_the_server_never_holds_the_token_itself(bus: Bus, connection: Connection) -> None:
    token = await bus.tokens.issue(SESSION, "connect", life_ms=60_000)
    names = await connection.command("KEYS", "*token*")
    assert names
    for name in names:
        fields = await connection.command("HGETALL", name)
        assert token.encode() not in b"".join([name, *fields.keys(), *fields.values()])
