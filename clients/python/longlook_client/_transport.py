"""HTTP with the key, the limits and the errors of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from longlook_client._errors import ConnectError, ProtocolError, response_error

RETRY_PAUSES: Final = (0.1, 0.5)


class Transport:
    """One connection pool to one server. Requests that may be repeated are, when the connection breaks."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=timeout)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def json(self, method: str, path: str, *, repeatable: bool = True, **request: Any) -> dict[str, Any]:
        """The response's JSON object, ``{}`` when it has no body; a :class:`LonglookError` for anything else."""
        for pause in (*RETRY_PAUSES, None):
            try:
                return _decoded(await self._http.request(method, path, **request))
            except httpx.TransportError as error:
                if pause is None or not repeatable or isinstance(error, httpx.ReadTimeout):
                    raise self._unreachable(error) from error
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    @asynccontextmanager
    async def events(
        self, method: str, path: str, headers: Mapping[str, str], **request: Any
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a server-sent event stream."""
        try:
            async with self._http.stream(method, path, headers=dict(headers), **request) as response:
                if response.is_error:
                    raise response_error(response.status_code, response.headers, await response.aread())
                yield response.aiter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def download(self, path: str, params: Mapping[str, int | None]) -> AsyncIterator[httpx.Response]:
        """A response whose bytes are still to be read. Parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        try:
            async with self._http.stream("GET", path, params=given) as response:
                if response.is_error:
                    raise response_error(response.status_code, response.headers, await response.aread())
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.TransportError) -> ConnectError:
        return ConnectError(f"cannot reach {self.url}: {error or type(error).__name__}")


def _decoded(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise response_error(response.status_code, response.headers, response.content)
    if not response.content:
        return {}
    try:
        body = response.json()
    except ValueError as error:
        raise ProtocolError(f"HTTP {response.status_code} without a JSON body") from error
    if not isinstance(body, dict):
        raise ProtocolError("the response is not a JSON object")
    return body
