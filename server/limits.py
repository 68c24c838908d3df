"""How much each tenant may do at a time, and which pages may open sockets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from protocol.errors import ForbiddenOrigin, RateLimited

BURST = 2.0


@dataclass
class Bucket:
    """A token bucket: ``rate`` a second on average, bursts of twice a second's worth (at least one)."""

    rate: float
    level: float
    filled_at: float

    @classmethod
    def full(cls, rate: float, now: float) -> Bucket:
        """A bucket from which nothing was taken yet."""
        return cls(rate, max(rate * BURST, 1.0), now)

    def take(self, now: float) -> float:
        """0 if one may pass now, else the seconds until one may."""
        self.level = min(self.level + (now - self.filled_at) * self.rate, max(self.rate * BURST, 1.0))
        self.filled_at = now
        if self.level < 1.0:
            return (1.0 - self.level) / self.rate
        self.level -= 1.0
        return 0.0

    def charge(self, amount: float, now: float) -> float:
        """Takes ``amount``, though it may be more than there is; the seconds until what was too much is made up for."""
        self.level = min(self.level + (now - self.filled_at) * self.rate, self.rate * BURST) - amount
        self.filled_at = now
        return max(-self.level / self.rate, 0.0)


class Allowance:
    """One kind of thing that tenants do: so many a second, or so many at a time. Tenants are as few as the keys."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._held: Counter[str] = Counter()

    def spend(self, tenant: str, rate: float) -> None:
        """Raises RateLimited when the tenant's bucket of ``rate`` a second is empty."""
        now = self._clock()
        if tenant not in self._buckets:
            self._buckets[tenant] = Bucket.full(rate, now)
        wait = self._buckets[tenant].take(now)
        if wait:
            raise RateLimited(f"too many {self._what}", retry_after=wait)

    def check_paid(self, tenant: str, rate: float) -> None:
        """Raises RateLimited where the tenant has been charged more than it has at ``rate`` a second."""
        wait = self.charge(tenant, rate, 0.0)
        if wait:
            raise RateLimited(f"too many {self._what}", retry_after=wait)

    async def pace(self, tenant: str, rate: float, amount: float) -> None:
        """Charge the tenant, and wait until that is made up for: more than ``rate`` a second is held back."""
        wait = self.charge(tenant, rate, amount)
        if wait:
            await asyncio.sleep(wait)

    def charge(self, tenant: str, rate: float, amount: float) -> float:
        """Takes ``amount`` from the tenant, and returns the seconds until what was too much is made up for."""
        now = self._clock()
        return self._buckets.setdefault(tenant, Bucket.full(rate, now)).charge(amount, now)

    @contextmanager
    def hold(self, tenant: str, limit: int) -> Iterator[None]:
        """Raises RateLimited when the tenant holds ``limit`` already."""
        if self._held[tenant] >= limit:
            raise RateLimited(f"at most {limit} {self._what} at a time", retry_after=1.0)
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._held[tenant] -= 1


def check_origin(origin: str | None, host: str | None, allowed: tuple[str, ...]) -> None:
    """Browsers name the page that opens a socket: it must be the gateway's own or one of ``allowed``.

    A client that names none is no browser, and its key or token is what counts. Raises ForbiddenOrigin.
    """
    if origin is None or origin in allowed:
        return
    if not host or _place(origin) != host.lower():
        raise ForbiddenOrigin("pages of this origin may not open sockets here")


def _place(origin: str) -> str:
    """Host and port of an origin, empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
