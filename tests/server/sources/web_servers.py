"""Web servers for tests: one path each, which may send a file, endless pictures, or somebody elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Respond = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request's target and headers, names in lower case."""

    target: str
    headers: dict[str, str]


@dataclass
class WebServer:
    port: int
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def url(self, path: str = "/", user: str = "") -> str:
        return f"{self.scheme}://{user and user + '@'}127.0.0.1:{self.port}{path}"

    def hang_up(self) -> None:
        """Break every connection."""
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def web_server(
    respond: Respond, tls: ssl.SSLContext | None = None, *, keeps: bool = False
) -> AsyncIterator[WebServer]:
    """``keeps``: a connection is good for more than one request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = (line.partition(":") for line in lines[1:])
                asked = Asked(lines[0].split()[1], {name.lower(): value.strip() for name, _, value in pairs})
                server.asked.append(asked)
                await respond(asked, writer)
                await writer.drain()
                if not keeps:
                    break
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    server = WebServer(listener.sockets[0].getsockname()[1], "https" if tls else "http")
    try:
        yield server
    finally:
        listener.close()
        server.hang_up()


def head(status: str, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def sends(data: bytes, content_type: str) -> Respond:
    async def respond(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Type=content_type, Content_Length=str(len(data))) + data)

    return respond


def redirects(location: str) -> Respond:
    async def respond(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("302 Found", Location=location, Content_Length="0"))

    return respond


def shows(picture: bytes, pause_s: float = 0.05) -> Respond:
    """One picture, over and over, until the client goes away."""

    async def respond(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Type="multipart/x-mixed-replace; boundary=next"))
        part = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(picture), picture)
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return respond


def guards(respond: Respond, challenge: str, proof: str) -> Respond:
    """Asks for a proof that begins so."""

    async def guarded(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.headers.get("authorization", "").startswith(proof):
            await respond(asked, writer)
        else:
            writer.write(head("401 Unauthorized", WWW_Authenticate=challenge, Content_Length="0"))

    return guarded


def certified(folder: Path, address: str) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for ``address``, and the file that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "camera")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = builder.add_extension(names, critical=False).sign(key, SHA256())
    path = folder / f"{address}.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path
