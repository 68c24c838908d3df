"""Addresses of sources: read once, strictly, and never shown with what is secret in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin, urlsplit

from protocol.errors import BadRequest

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
SECURE = frozenset({"rtsps", "https"})
LONGEST = 2_048


@dataclass(frozen=True)
class Target:
    """A URL in its parts. ``path`` begins with a slash and holds the query as it is sent."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def secure(self) -> bool:
        return self.scheme in SECURE

    @property
    def place(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def uri(self) -> str:
        """The URL without its user."""
        return f"{self.scheme}://{self.place}{self.path}"

    @property
    def shown(self) -> str:
        """The URL as it may be given out: without user and query, which cameras take passwords in."""
        path, query, _ = self.path.partition("?")
        return f"{self.scheme}://{self.place}{path}{query and '?…'}"

    def moved(self, location: str) -> Target:
        """Where a redirect leads. The password goes along to the same place alone, and never out of encryption.

        Raises:
            BadRequest: not a URL of a kind that is pulled, or one of another protocol.
        """
        there = parse_target(urljoin(self.uri, location))
        if there.scheme.rstrip("s") != self.scheme.rstrip("s") or (self.secure and not there.secure):
            raise BadRequest("a redirect leads to another protocol, or out of encryption")
        same = (there.scheme, there.host, there.port) == (self.scheme, self.host, self.port)
        user, password = (self.user, self.password) if same else (there.user, there.password)
        return Target(there.scheme, there.host, there.port, there.path, user, password)


def parse_target(url: str) -> Target:
    """Raises BadRequest; its message holds nothing of the URL."""
    if not 0 < len(url) <= LONGEST or not all("!" <= letter <= "~" and letter != "\\" for letter in url):
        raise BadRequest("a source's URL is plain ASCII without spaces, and not too long", param="url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest("not a URL", param="url") from None
    if parts.scheme not in PORTS:
        raise BadRequest(f"sources are pulled by {', '.join(PORTS)}", param="url")
    if not parts.hostname:
        raise BadRequest("the URL names no host", param="url")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not (user + password).isprintable():
        raise BadRequest("user or password hold control characters", param="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path, user, password)
