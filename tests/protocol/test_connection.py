import pytest
from redis import exceptions

from protocol.connection import Connection, translated
from protocol.errors import BusFull, BusUnavailable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://user:hunter2@localhost"])
def test_an_address_of_another_kind_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BusUnavailable) as refused:
        Connection(url)
    assert refused.value.retry_after is None
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    ("raised", "told", "again"),
    [
        (exceptions.ConnectionError("redis://user:hunter2@host"), BusUnavailable, True),
        (exceptions.TimeoutError("slow"), BusUnavailable, True),
        (TimeoutError(), BusUnavailable, True),
        (ConnectionResetError(), BusUnavailable, True),
        (exceptions.ReadOnlyError("replica"), BusUnavailable, True),
        (exceptions.AuthenticationError("hunter2"), BusUnavailable, False),
        (exceptions.OutOfMemoryError("full"), BusFull, True),
    ],
)
def test_what_callers_must_live_with_has_our_types(raised: Exception, told: type[Exception], again: bool) -> None:
    with pytest.raises(BusUnavailable) as caught, translated():
        raise raised
    assert type(caught.value) is told
    assert (caught.value.retry_after is not None) is again
    assert "hunter2" not in str(caught.value)


def test_mistakes_of_ours_stay_what_they_are() -> None:
    with pytest.raises(exceptions.ResponseError), translated():
        raise exceptions.ResponseError("wrong kind of value")
