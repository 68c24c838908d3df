"""The questions of one session that are under way, and what the engine's events mean to their askers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerFailed,
    AnswerStarted,
    Ask,
    Output,
    Timing,
    Turn,
    Usage,
)
from workers.engine.messages import QuestionDone, QuestionStarted, Refused, Tokens


@dataclass
class _Running:
    ask: Ask
    asked: float  # time.monotonic() of the gateway's acceptance
    resumed: bool
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    queued_ms: float = 0.0
    first_token_ms: float = 0.0


class Answers:
    """Turns events into outputs, one final output for each question."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, question_id: str) -> bool:
        return question_id in self._running

    def begin(self, ask: Ask, *, prefix: Sequence[int] = (), resumed: bool = False) -> None:
        """``resumed``: its start was published by an owner before, and so were the tokens of ``prefix``."""
        self._none.clear()
        age = max(0.0, time.time() - ask.asked_at)
        self._running[ask.question_id] = _Running(ask, time.monotonic() - age, resumed, list(prefix))

    def turn(self, event: QuestionDone, at_ms: int) -> Turn | None:
        """What the session remembers of an answer that ends now, after the frames up to ``at_ms``."""
        running = self._running.get(event.question_id)
        if running is None or not running.ask.remember or event.finish_reason not in ("stop", "length"):
            return None
        return Turn(at_ms=at_ms, question=running.ask.text, answer=running.tokens)

    def hear(self, event: QuestionStarted | Tokens | QuestionDone | Refused) -> Output | None:
        """What to publish of an event; nothing for questions that are not under way."""
        running = self._running.get(event.question_id)
        if running is None:
            return None
        if isinstance(event, QuestionStarted):
            return self._started(event, running)
        if isinstance(event, Tokens):
            return self._tokens(event, running)
        del self._running[event.question_id]
        if not self._running:
            self._none.set()
        if isinstance(event, QuestionDone):
            return self._done(event, running)
        return AnswerFailed(question_id=event.question_id, code=event.code, message=event.message)

    def fail_all(self, code: str, message: str) -> list[Output]:
        """Ends every question that is still under way."""
        failed: list[Output] = [
            AnswerFailed(question_id=question_id, code=code, message=message) for question_id in self._running
        ]
        self._running.clear()
        self._none.set()
        return failed

    async def none_left(self) -> None:
        """Returns once no question is under way."""
        await self._none.wait()

    def _started(self, event: QuestionStarted, running: _Running) -> Output | None:
        running.prompt_tokens = event.prompt_tokens
        running.queued_ms = _since(running.asked)
        if running.resumed:
            return None
        return AnswerStarted(question_id=event.question_id, as_of_ms=event.as_of_ms, mode=event.mode)

    def _tokens(self, event: Tokens, running: _Running) -> Output:
        running.first_token_ms = running.first_token_ms or _since(running.asked)
        running.tokens += event.token_ids
        return AnswerDelta(question_id=event.question_id, index=event.index, token_ids=event.token_ids, text=event.text)

    def _done(self, event: QuestionDone, running: _Running) -> Output:
        if event.finish_reason == "error":
            return AnswerFailed(
                question_id=event.question_id, code="internal", message="the answer could not be finished"
            )
        return AnswerDone(
            question_id=event.question_id,
            text=event.text,
            finish_reason=event.finish_reason,
            as_of_ms=event.as_of_ms,
            usage=Usage(prompt_tokens=running.prompt_tokens, completion_tokens=event.completion_tokens),
            timing=Timing(
                queued_ms=running.queued_ms, first_token_ms=running.first_token_ms, total_ms=_since(running.asked)
            ),
        )


def _since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
