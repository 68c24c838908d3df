"""How a pull ends before its time, inside the puller."""

from __future__ import annotations


class Refusal(Exception):
    """The server has nothing that can be pulled. ``lasting``: trying again will not help."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class Redirect(Exception):
    """The source is elsewhere."""

    def __init__(self, location: str) -> None:
        super().__init__("the source is elsewhere")
        self.location = location
