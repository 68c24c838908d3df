"""What clients ask for when they open a session or put a question, and whether that is within bounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from protocol import ids
from protocol.errors import BadRequest, QuestionTooLong, TooLarge
from protocol.messages import Ask, Ingest, Mode, Store
from server.settings import Limits

LATEST_MS = 1 << 52  # a session time that JSON's numbers hold exactly


@dataclass(frozen=True)
class OpenTerms:
    """What a session is opened with; None takes the model's default."""

    model: str | None = None
    fps: float = 1.0
    budget_tokens: int | None = None
    policy: str | None = None
    instructions: str = ""
    ingest: Ingest = "live"
    store: Store | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    dropping: bool | None = None

    def check(self, limits: Limits) -> None:
        """Raises TooLarge, BadRequest. What depends on the model is checked where the model is known."""
        if len(self.instructions) > limits.instructions_chars:
            raise TooLarge(f"instructions are limited to {limits.instructions_chars} characters", param="instructions")
        if not is_text(self.instructions):
            raise BadRequest("instructions hold half a character", param="instructions")
        _check_metadata(self.metadata, limits)


@dataclass(frozen=True)
class AskTerms:
    """A question as a client puts it; ``at_ms`` None means the newest picture accepted."""

    question: str
    id: str | None = None
    mode: Mode = "frozen"
    at_ms: int | None = None
    remember: bool = True
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def check(self, limits: Limits) -> None:
        """Raises QuestionTooLong, BadRequest."""
        if len(self.question) > limits.question_chars:
            raise QuestionTooLong(f"a question has at most {limits.question_chars} characters", param="question")
        faults = {
            "question": not self.question.strip() or not is_text(self.question),
            "id": self.id is not None and not ids.is_question_id(self.id),
            "at_ms": self.at_ms is not None and not 0 <= self.at_ms <= LATEST_MS,
            "max_tokens": not 1 <= self.max_tokens <= limits.answer_tokens,
            "temperature": not 0 <= self.temperature <= 2,
            "top_p": not 0 < self.top_p <= 1,
            "seed": self.seed is not None and not 0 <= self.seed < 1 << 63,
        }
        for name, wrong in faults.items():
            if wrong:
                raise BadRequest(f"{name} is missing or out of range", param=name)

    def same_as(self, ask: Ask) -> bool:
        """Whether ``ask`` is this question, put before."""
        mine = (self.question, self.mode, self.remember, self.max_tokens, self.temperature, self.top_p)
        stored = (ask.text, ask.mode, ask.remember, ask.max_tokens, ask.temperature, ask.top_p)
        return mine == stored and self.at_ms in (None, ask.at_ms) and self.seed in (None, ask.seed)

    def digest(self) -> str:
        """SHA-256 of the whole question, in hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def is_text(text: str) -> bool:
    """Whether ``text`` can be stored: JSON lets halves of characters (lone surrogates) through, UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_metadata(metadata: Mapping[str, str], limits: Limits) -> None:
    if len(metadata) > limits.metadata_pairs:
        raise TooLarge(f"metadata is limited to {limits.metadata_pairs} pairs", param="metadata")
    for key, value in metadata.items():
        if len(key) > limits.metadata_key_chars:
            raise TooLarge(f"a key of metadata has at most {limits.metadata_key_chars} characters", param="metadata")
        if len(value) > limits.metadata_value_chars:
            message = f"a value of metadata has at most {limits.metadata_value_chars} characters"
            raise TooLarge(message, param="metadata")
        if not key or not is_text(key + value):
            raise BadRequest("metadata has an empty key, or holds half a character", param="metadata")
