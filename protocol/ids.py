"""Ids: how each is made, and which shapes are let in from outside."""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

SESSION_ID = re.compile(r"s_[0-9a-f]{24}")
QUESTION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
ENTRY_ID = re.compile(r"(\d{1,19})-(\d{1,19})")


class EntryId(NamedTuple):
    """A stream entry's id. Outputs: (epoch, n); media: (publisher generation, sequence). Orders as Redis orders it."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}-{self.minor}"

    @classmethod
    def parse(cls, text: str | bytes) -> EntryId:
        """Raises ValueError for anything that is not ``<digits>-<digits>``."""
        match = ENTRY_ID.fullmatch(text.decode() if isinstance(text, bytes) else text)
        if match is None:
            raise ValueError("not an entry id")
        return cls(int(match[1]), int(match[2]))


START = EntryId(0, 0)


def session_id() -> str:
    return f"s_{secrets.token_hex(12)}"


def question_id() -> str:
    return f"q_{secrets.token_hex(8)}"


def worker_id() -> str:
    return f"w_{secrets.token_hex(6)}"


def is_session_id(text: str) -> bool:
    return SESSION_ID.fullmatch(text) is not None


def is_question_id(text: str) -> bool:
    return QUESTION_ID.fullmatch(text) is not None
