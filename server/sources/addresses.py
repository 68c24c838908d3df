"""Which addresses sources may be pulled from, and connections to those alone."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from protocol.errors import ForbiddenAddress, LonglookError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]

# IANA's special-purpose registries (RFC 6890 and its successors), multicast, and what clouds answer instances on.
DENIED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
        ),
    )
)  # fmt: skip
GLOBAL_V6 = IPv6Network("2000::/3")
DENIED_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
NAT64 = IPv6Network("64:ff9b::/96")
# A name on the allow-list leads to no one of these, since whoever runs the name's DNS is not who runs the network.
NEVER_BY_NAME: tuple[Network, ...] = (
    *map(IPv4Network, ("0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "224.0.0.0/3")),
    *map(IPv6Network, ("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::/32")),
)


class Unreachable(LonglookError):
    """Nobody answers there, for now."""

    code = "unreachable"
    status = 503


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (v4-mapped, NAT64), or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether an address is of the open internet."""
    address = plain(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in DENIED_V4)
    return address in GLOBAL_V6 and not any(address in network for network in DENIED_V6)


@dataclass(frozen=True)
class Policy:
    """Public addresses, and what the operator allows besides: networks, and names at whatever private address."""

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, allowed: Iterable[str]) -> Policy:
        """Each entry is a network in CIDR form, one address, or a host's name. Raises ValueError."""
        networks: list[Network] = []
        names: set[str] = set()
        for entry in allowed:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if "/" in entry or ":" in entry or not entry.strip() or entry[-1].isdigit():
                    raise ValueError(f"neither a network nor a host's name: {entry!r}") from None
                names.add(_name(entry))
        return cls(tuple(networks), frozenset(names))

    def permits(self, host: str, address: Address) -> bool:
        """Whether ``host``, found at ``address``, may be connected to there."""
        address = plain(address)
        if is_public(address) or any(address in network for network in self.networks):
            return True
        return _name(host) in self.names and not any(address in network for network in NEVER_BY_NAME)


class Dialer:
    """Connects to hosts: each name is looked up once, and the address that was judged is the one connected to."""

    def __init__(self, policy: Policy, timeout_s: float, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._resolve = resolve or system_resolver

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Where the host may be connected to. Raises Unreachable where it has no address, ForbiddenAddress."""
        try:
            async with asyncio.timeout(self._timeout_s):
                found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, UnicodeError, ValueError, TimeoutError):
            raise Unreachable("the host's name is not known") from None
        permitted = [address for address in found if self._policy.permits(host, address)]
        if found and not permitted:
            raise ForbiddenAddress("the host's address is private or reserved: the operator may allow it")
        if not permitted:
            raise Unreachable("the host's name is not known")
        return permitted

    async def dial(self, host: str, port: int) -> socket.socket:
        """A connected, blocking socket. Raises Unreachable, ForbiddenAddress."""
        for address in await self.addresses(host, port):
            connection = await self._connect(address, port)
            if connection is not None:
                return connection
        raise Unreachable("nobody answers at the host's address")

    async def _connect(self, address: Address, port: int) -> socket.socket | None:
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except (OSError, TimeoutError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


async def system_resolver(host: str, port: int) -> list[str]:
    """Numeric addresses of a host, without zones, as the system finds them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _name(host: str) -> str:
    return host.lower().rstrip(".")
