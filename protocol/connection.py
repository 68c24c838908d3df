"""The connection to Redis: explicit retries and limits, and one translation of its errors into ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from protocol.errors import BusFull, BusUnavailable
from protocol.scripts import Script

SCHEMES = ("redis://", "rediss://", "unix://")

Argument = str | bytes | int | float


@contextmanager
def translated() -> Iterator[None]:
    """Lets no error of the Redis library out that a caller is expected to live with."""
    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise BusFull("the bus is out of memory") from error
    except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError) as error:
        # While it connects, the library wraps what Valkey says in an error of the connection.
        if any(isinstance(one, exceptions.AuthenticationError) for one in (error, error.__context__)):
            raise BusUnavailable("the bus refuses these credentials", retry_after=None) from error
        raise BusUnavailable("the bus cannot be reached") from error


@dataclass(frozen=True)
class Call:
    """One script with its keys and arguments, for a batch."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]


class Connection:
    """A pool of connections to one Redis. Safe to share between tasks of one event loop.

    Within ``timeout`` seconds every command is tried again up to ``retries`` times when the connection fails: the
    scripts are written to be safe to repeat.
    """

    def __init__(self, url: str, *, timeout: float = 2.0, retries: int = 3, pool: int = 64) -> None:
        self.url = url
        if not url.startswith(SCHEMES):
            raise BusUnavailable(f"the bus's address must begin with one of {', '.join(SCHEMES)}", retry_after=None)
        # The blocking pool makes callers wait for a connection where the plain one would refuse them.
        connections = BlockingConnectionPool.from_url(
            url,
            protocol=2,
            decode_responses=False,
            socket_timeout=None,  # its wait_for loses cancellations on Python 3.11; the limit is _limited's
            socket_connect_timeout=timeout,
            health_check_interval=0,
            max_connections=pool,
            timeout=timeout,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries),
            retry_on_error=[exceptions.ConnectionError, exceptions.TimeoutError],
        )
        self._redis = Redis.from_pool(connections)
        self._timeout = timeout

    async def command(self, *parts: Argument) -> Any:
        """Runs one command as it stands. Raises BusUnavailable."""
        async with self._limited():
            return await self._redis.execute_command(*parts)  # type: ignore[no-untyped-call]

    async def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> list[Any]:
        """Runs one script, sending its source where the server does not know it yet. Raises BusUnavailable."""
        try:
            reply = await self.command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            reply = await self.command("EVAL", script.source, len(keys), *keys, *arguments)
        return list(reply)

    async def run_all(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Runs scripts of any sessions in one round trip, not as one transaction. Raises the first error met."""
        if not calls:
            return []
        async with self._limited(), self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return [await self._settled(call, reply) for call, reply in zip(calls, replies, strict=True)]

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _settled(self, call: Call, reply: Any) -> list[Any]:
        if isinstance(reply, exceptions.NoScriptError):
            return await self.run(call.script, call.keys, *call.arguments)
        if isinstance(reply, Exception):
            with translated():
                raise reply
        return list(reply)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        with translated():
            async with asyncio.timeout(self._timeout):
                yield
