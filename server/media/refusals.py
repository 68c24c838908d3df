"""What a decoder process says no to, by name."""

from __future__ import annotations


class Refused(Exception):
    """Media that can be read and are not accepted; ``code`` is a protocol error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
