import pytest

from protocol.connection import Connection
from tests.faults.leaks import lasting_keys

pytestmark = pytest.mark.conformance


async def test_keys_without_an_expiry_are_found_among_many(direct: Connection) -> None:
    for number in range(1_200):
        await direct.command("SET", f"short:{number}", "x", "PX", 60_000)
    assert await lasting_keys(direct) == []
    await direct.command("SET", "kept:string", "x")
    await direct.command("XADD", "kept:stream", "*", "m", "x")
    assert await lasting_keys(direct) == [b"kept:stream", b"kept:string"]
    await direct.command("DEL", "kept:string", "kept:stream")
