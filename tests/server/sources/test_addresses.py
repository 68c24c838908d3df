import asyncio
import ipaddress
import socket
from collections.abc import Iterator

import pytest

from protocol.errors import ForbiddenAddress
from server.sources.addresses import Dialer, Policy, Unreachable, is_public, system_resolver

pytestmark = pytest.mark.unit

DENIED = [
    "0.0.0.1", "0.255.1.1", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "3fff::1", "4000::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8", "93.184.216.34", "172.32.0.1", "192.167.255.255", "2606:4700::1111", "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]  # fmt: skip


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Names:
    """A name server that may change its mind."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def dialer(*answers: list[str], allow: tuple[str, ...] = ()) -> Dialer:
    return Dialer(Policy.of(allow), 1.0, Names(*answers))


@pytest.mark.parametrize("address", DENIED)
async def test_addresses_that_are_not_of_the_internet_are_denied(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(ForbiddenAddress):
        await dialer([address]).addresses("camera.example", 554)


@pytest.mark.parametrize("address", PUBLIC)
async def test_public_addresses_are_permitted(address: str) -> None:
    assert await dialer([address]).addresses("camera.example", 554) == [ipaddress.ip_address(address)]


@pytest.mark.parametrize("written", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost", "::1"])
async def test_however_loopback_is_written_it_is_denied(written: str) -> None:
    with pytest.raises(ForbiddenAddress):
        await Dialer(Policy(), 5.0).addresses(written, 554)


async def test_of_mixed_addresses_only_the_permitted_are_used() -> None:
    assert [str(found) for found in await dialer(["127.0.0.1", "8.8.8.8"]).addresses("a.example", 1)] == ["8.8.8.8"]


async def test_a_name_that_changes_its_mind_is_looked_up_once(port: int) -> None:
    """Rebinding: the first look-up is judged, and its address is connected to; a second one never happens."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    connection = await Dialer(Policy.of(["127.0.0.0/8"]), 1.0, names).dial("camera.example", port)
    with connection:
        assert connection.getpeername() == ("127.0.0.1", port)
        assert names.asked == 1
    rebound = Names(["8.8.8.8"], ["127.0.0.1"])
    judged = Dialer(Policy(), 1.0, rebound)
    assert [str(found) for found in await judged.addresses("camera.example", port)] == ["8.8.8.8"]
    with pytest.raises(ForbiddenAddress):
        await judged.dial("camera.example", port)


async def test_networks_are_allowed_by_the_operator() -> None:
    allow = ("192.168.7.0/24", "fd12::/16")
    assert await dialer(["192.168.7.9"], allow=allow).addresses("x", 1)
    assert await dialer(["::ffff:192.168.7.9"], allow=allow).addresses("x", 1)
    assert await dialer(["fd12::9"], allow=allow).addresses("x", 1)
    with pytest.raises(ForbiddenAddress):
        await dialer(["192.168.8.9"], allow=allow).addresses("x", 1)


async def test_names_are_allowed_at_private_addresses_and_at_no_metadata() -> None:
    allow = ("Camera.LAN",)
    assert await dialer(["10.0.0.9"], allow=allow).addresses("camera.lan.", 1)
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "224.0.0.1", "0.0.0.1"):
        with pytest.raises(ForbiddenAddress):
            await dialer([address], allow=allow).addresses("camera.lan", 1)
    with pytest.raises(ForbiddenAddress):
        await dialer(["10.0.0.9"], allow=allow).addresses("other.lan", 1)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://camera", "", "300.1.1.1", "fe80::/zz"])
def test_an_allow_list_that_makes_no_sense_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="network"):
        Policy.of([entry])


async def test_names_that_nobody_knows_are_no_fault_of_the_client() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror

    async def hangs(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    for resolve, limit in ((unknown, 1.0), (hangs, 0.01), (Names([]), 1.0)):
        with pytest.raises(Unreachable):
            await Dialer(Policy(), limit, resolve).addresses("camera.example", 554)


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        with pytest.raises(Unreachable):
            await Dialer(Policy.of(["127.0.0.1"]), 1.0).dial("127.0.0.1", taken.getsockname()[1])


async def test_the_system_resolver_gives_numbers() -> None:
    assert await system_resolver("127.0.0.1", 80) == ["127.0.0.1"]
