"""An answer while it is being given: the feed that the connection writes, and the view that the caller reads."""

# ruff: noqa: ASYNC109 - a client library takes its limits as parameters

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from longlook_client._errors import LonglookError, WaitTimeoutError
from longlook_client._events import DeltaFilter
from longlook_client._types import AnswerResult, Delta, Mode


class AnswerFeed:
    """Collects what the server says about one question."""

    def __init__(self, question_id: str, question: str) -> None:
        self.id = question_id
        self.question = question
        self.as_of_ms: float | None = None
        self.mode: Mode | None = None
        self.deltas: list[Delta] = []
        self.outcome: AnswerResult | LonglookError | None = None
        self.accepted = asyncio.Event()
        self.changed = asyncio.Event()
        self._filter = DeltaFilter()

    def start(self, as_of_ms: float | None, mode: Mode | None) -> None:
        self.as_of_ms, self.mode = as_of_ms, mode
        self.accepted.set()

    def extend(self, delta: Delta) -> None:
        self.accepted.set()
        if self.outcome is None and self._filter.fresh(delta):
            self.deltas.append(delta)
            self._wake()

    def finish(self, outcome: AnswerResult | LonglookError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.accepted.set()
            self._wake()

    def raise_failure(self) -> None:
        if isinstance(self.outcome, LonglookError):
            raise self.outcome

    def _wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class AsyncAnswer:
    """Iterate it for the deltas, as often as needed, each time from the first; ``result()`` waits for the whole.

    Both raise :class:`AnswerError` when the answer failed, and the connection's error when that was lost for good.
    """

    def __init__(self, feed: AnswerFeed, cancel: Callable[[str], Awaitable[None]]) -> None:
        self._feed = feed
        self._cancel = cancel

    @property
    def id(self) -> str:
        return self._feed.id

    @property
    def question(self) -> str:
        return self._feed.question

    @property
    def as_of_ms(self) -> float | None:
        """The session time that the answer is about; ``None`` before it has started."""
        return self._feed.as_of_ms

    @property
    def mode(self) -> Mode | None:
        return self._feed.mode

    @property
    def text(self) -> str:
        """What has arrived so far."""
        outcome = self._feed.outcome
        if isinstance(outcome, AnswerResult) and outcome.text:
            return outcome.text
        return "".join(delta.text for delta in self._feed.deltas)

    @property
    def done(self) -> bool:
        return self._feed.outcome is not None

    async def begun(self) -> None:
        """Returns with the first delta, or with the outcome if that comes before."""
        while not self._feed.deltas and self._feed.outcome is None:
            await self._feed.changed.wait()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        feed, seen = self._feed, 0
        while True:
            changed = feed.changed
            while seen < len(feed.deltas):
                seen += 1
                yield feed.deltas[seen - 1]
            if changed is feed.changed:
                feed.raise_failure()
                if feed.outcome is not None:
                    return
                await changed.wait()

    async def result(self, timeout: float | None = 120.0) -> AnswerResult:
        """The whole answer; :class:`WaitTimeoutError` after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._feed.outcome is None:
                    await self._feed.changed.wait()
        except TimeoutError as error:
            raise WaitTimeoutError(f"no answer within {timeout} s") from error
        if isinstance(self._feed.outcome, LonglookError):
            raise self._feed.outcome
        return self._feed.outcome

    async def cancel(self) -> None:
        """Asks the server to stop; the result then says ``cancelled``, with the text so far."""
        await self._cancel(self.id)
