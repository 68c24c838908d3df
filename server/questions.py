"""The questions that this gateway accepted and that have no outcome yet: each gets one, whatever becomes of workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from protocol.bus import Bus
from protocol.errors import Conflict, NotFound, RateLimited, SessionClosed, WorkerLost
from protocol.messages import AnswerDelta, AnswerDone, AnswerFailed, AnswerStarted, Ask
from server.metrics import Metrics
from server.relay import Relayed

FORGOTTEN_S = 3_600.0  # as long as the bus keeps an unanswered question


@dataclass
class _Pending:
    ask: Ask
    accepted_at: float
    heard_at: float
    done: Callable[[], None]
    started: bool = False
    spoken: bool = False


class Questions:
    """Watches over unanswered questions; times in seconds of the monotonic clock.

    Args:
        unowned_s: silence after which a question of a session without a worker fails.
    """

    def __init__(self, bus: Bus, metrics: Metrics, unowned_s: float) -> None:
        self._bus = bus
        self._metrics = metrics
        self._unowned_s = unowned_s
        self._pending: dict[tuple[str, str], _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, session_id: str, ask: Ask, done: Callable[[], None]) -> bool:
        """Call before the question is appended; it is kept, and ``done`` is called once it has its outcome.

        Returns:
            False where the question is expected already; ``done`` is not kept then.
        """
        if (session_id, ask.question_id) in self._pending:
            return False
        now = time.monotonic()
        self._pending[session_id, ask.question_id] = _Pending(ask, now, now, done)
        self._gauge()
        return True

    def forget(self, session_id: str, question_id: str) -> None:
        """The question is watched over no more, and its ``done`` is called."""
        pending = self._pending.pop((session_id, question_id), None)
        if pending is not None:
            pending.done()
            self._gauge()

    def observe(self, relayed: Relayed) -> None:
        """Every live output passes here."""
        match relayed.output:
            case AnswerStarted(question_id=question_id) | AnswerDelta(question_id=question_id):
                pending = self._pending.get((relayed.session_id, question_id))
                if pending is not None:
                    self._progress(pending, first_token=isinstance(relayed.output, AnswerDelta))
            case AnswerDone(question_id=question_id) | AnswerFailed(question_id=question_id):
                pending = self._pending.get((relayed.session_id, question_id))
                if pending is not None:
                    self._measure(pending, relayed.output)
                    self.forget(relayed.session_id, question_id)

    async def end_unowned(self) -> None:
        """Fail the questions that have been silent for too long while no worker owns their session."""
        now = time.monotonic()
        for (session_id, question_id), pending in list(self._pending.items()):
            if now - pending.accepted_at > FORGOTTEN_S:
                self.forget(session_id, question_id)
            elif now - pending.heard_at > self._unowned_s:
                message = "no worker has taken the session"
                failed = AnswerFailed(question_id=question_id, code=WorkerLost.code, message=message)
                await self._bus.outputs.fail_unowned(session_id, failed)

    async def append_again(self) -> None:
        """After an outage: every question that nobody has begun to answer, under its id. Raises BusUnavailable."""
        for session_id, question_id in list(self._pending):
            with suppress(NotFound, SessionClosed, Conflict, RateLimited):
                await self.append_one_again(session_id, question_id)

    async def append_one_again(self, session_id: str, question_id: str) -> None:
        """Raises BusUnavailable, and whatever else refuses a question."""
        pending = self._pending.get((session_id, question_id))
        if pending is not None and not pending.started:
            await self._bus.lanes.ask(session_id, pending.ask)
            pending.heard_at = time.monotonic()

    def of(self, session_id: str) -> list[tuple[str, bool]]:
        """The session's unanswered questions: id, and whether somebody had begun to answer."""
        return [
            (question_id, pending.started)
            for (owner, question_id), pending in self._pending.items()
            if owner == session_id
        ]

    def _progress(self, pending: _Pending, *, first_token: bool) -> None:
        now = time.monotonic()
        pending.heard_at = now
        if first_token and not pending.spoken:
            pending.spoken = True
            self._metrics.time_to_first_token.observe(now - pending.accepted_at)
        if not pending.started:
            pending.started = True
            self._gauge()

    def _measure(self, pending: _Pending, outcome: AnswerDone | AnswerFailed) -> None:
        self._metrics.request_latency.observe(time.monotonic() - pending.accepted_at)
        if isinstance(outcome, AnswerDone):
            self._metrics.request_success.labels(outcome.finish_reason).inc()
            self._metrics.prompt_tokens.inc(outcome.usage.prompt_tokens)
            self._metrics.generation_tokens.inc(outcome.usage.completion_tokens)
        else:
            self._metrics.request_success.labels("error").inc()

    def _gauge(self) -> None:
        running = sum(pending.started for pending in self._pending.values())
        self._metrics.requests_running.set(running)
        self._metrics.requests_waiting.set(len(self._pending) - running)
