import pytest

from protocol.errors import ForbiddenOrigin, RateLimited
from server.limits import Allowance, check_origin

pytestmark = pytest.mark.unit


def test_a_rate_lets_a_burst_through_and_then_its_average() -> None:
    now = 0.0
    allowance = Allowance("requests", lambda: now)
    for _ in range(20):
        allowance.spend("alice", 10.0)
    with pytest.raises(RateLimited) as refused:
        allowance.spend("alice", 10.0)
    assert refused.value.retry_after == pytest.approx(0.1)
    allowance.spend("bob", 10.0)
    passed = 0
    for step in range(1000):
        now = 0.01 * (step + 1)
        try:
            allowance.spend("alice", 10.0)
            passed += 1
        except RateLimited:
            pass
    assert 99 <= passed <= 100


def test_places_are_held_and_given_back() -> None:
    places = Allowance("connections")
    with places.hold("alice", 1):
        with pytest.raises(RateLimited), places.hold("alice", 1):
            pass
        with places.hold("bob", 1):
            pass
    with places.hold("alice", 1):
        pass


@pytest.mark.parametrize("origin", [None, "http://here:8080", "https://HERE:8080", "https://friend.example"])
def test_origins_let_in(origin: str | None) -> None:
    check_origin(origin, "here:8080", ("https://friend.example",))


@pytest.mark.parametrize(
    "origin", ["null", "", "http://here", "http://here:8080.evil", "https://evil", "//", "http://["]
)
def test_origins_kept_out(origin: str) -> None:
    with pytest.raises(ForbiddenOrigin):
        check_origin(origin, "here:8080", ("https://friend.example",))
    for host in (None, ""):
        with pytest.raises(ForbiddenOrigin):
            check_origin(origin, host, ())


def test_what_was_too_much_is_made_up_for() -> None:
    now = 0.0
    allowance = Allowance("bytes", lambda: now)
    allowance.check_paid("alice", 10.0)
    assert allowance.charge("alice", 10.0, 50.0) == 3.0  # two seconds' worth were there; the rest is debt
    with pytest.raises(RateLimited) as limited:
        allowance.check_paid("alice", 10.0)
    assert limited.value.retry_after == 3.0
    allowance.check_paid("bob", 10.0)
    now = 3.0
    allowance.check_paid("alice", 10.0)
