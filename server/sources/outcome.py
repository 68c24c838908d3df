"""How a pull ends before its time, in the puller and for the gateway."""

from __future__ import annotations


class Interrupted(Exception):
    """A source brings nothing now; ``lasting``: trying again will not help. The reason is for people."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class Redirect(Exception):
    """The source is elsewhere."""

    def __init__(self, location: str) -> None:
        super().__init__("the source is elsewhere")
        self.location = location
