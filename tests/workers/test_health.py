import asyncio

import pytest

from workers.health import Health

pytestmark = pytest.mark.unit


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read(-1)
    writer.close()
    return answer


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: worker\r\n\r\n".encode()


async def test_a_worker_is_alive_before_it_is_ready() -> None:
    loaded = False
    health = Health(lambda: loaded)
    async with health.serving("127.0.0.1", 0):
        assert (await ask(health.port, get("/livez"))).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await ask(health.port, get("/readyz"))).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        loaded = True
        assert (await ask(health.port, get("/readyz"))).endswith(b"\r\n\r\nOK")


@pytest.mark.parametrize("request_", [get("/metrics"), b"POST /livez HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_anything_else_is_not_found(request_: bytes) -> None:
    health = Health(lambda: True)
    async with health.serving("127.0.0.1", 0):
        assert (await ask(health.port, request_)).startswith(b"HTTP/1.1 404 ")


async def test_a_head_without_end_is_cut_off() -> None:
    health = Health(lambda: True)
    async with health.serving("127.0.0.1", 0):
        assert await ask(health.port, b"x" * 100_000) == b""
