"""Keys that would stay in Redis for ever: every key of the bus must expire by itself."""

from __future__ import annotations

from protocol.connection import Connection

BATCH = 500


async def lasting_keys(connection: Connection) -> list[bytes]:
    """Names of the keys without an expiry, sorted. Does not block the server, whatever it holds."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, names = await connection.command("SCAN", cursor, "COUNT", BATCH)
        found |= {name for name in names if await connection.command("PTTL", name) == -1}
        if int(cursor) == 0:
            return sorted(found)
