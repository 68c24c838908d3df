"""The answers in progress of one session: branches that are forked, grow and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protocol.messages import FinishReason
from workers.engine.batch import Following, Work
from workers.engine.branch import Branch
from workers.engine.messages import (
    AskQuestion,
    EngineNotice,
    Event,
    QuestionDone,
    QuestionStarted,
    Refused,
    Tokens,
)
from workers.engine.timeline import Timeline
from workers.memory.chain import Chain, Draft, Piece
from workers.models.chat import Chat, Span
from workers.models.tokenizer import Tokenizer

_UNREAD = 0  # stands for a token that only the device knows

Emit = Callable[[Event], None]
Remember = Callable[[str, tuple[int, ...]], None]


@dataclass(frozen=True, slots=True)
class Voice:
    """What turns text into tokens and tokens into text."""

    chat: Chat
    tokenizer: Tokenizer


class Saying(NamedTuple):
    """A branch's next tokens under way."""

    branch: Branch
    span: Span
    work: Work
    draft: Draft


class Answers:
    """The branches of a session. All that becomes of one is told by events, and one that has ended holds nothing."""

    def __init__(self, session_id: str, timeline: Timeline, voice: Voice, emit: Emit, remember: Remember) -> None:
        """`remember` takes the question and answer of a finished branch that is to become part of the trunk."""
        self.running: list[Branch] = []
        self._session_id, self._timeline, self._voice = session_id, timeline, voice
        self._trunk, self._share = timeline.trunk, timeline.trunk.share
        self._emit, self._remember = emit, remember

    def fork(self, question: AskQuestion) -> None:
        """Branches off, or refuses a question that is too long for the memory."""
        asked = self._voice.chat.question(self._timeline.clock, question.text)
        prompt = _joined(asked, self._voice.chat.answer(asked.clock, question.prefix))
        room = self._share.size * self._share.pool.page_size // 2
        if len(prompt) >= min(self._timeline.bounds.reserve, room):
            message = f"{len(prompt)} tokens are more than fit beside the memory"
            self._emit(refusal(self._session_id, question, "question_too_long", message))
            return
        branch = self._branch(question, prompt)
        self.running.append(branch)
        self._emit(
            QuestionStarted(
                session_id=self._session_id,
                question_id=question.question_id,
                as_of_ms=branch.as_of_ms,
                mode=question.mode,
                prompt_tokens=self._trunk.tokens + len(asked),
            )
        )
        if len(question.prefix) >= question.max_tokens:
            self.finish(branch, "length")

    def cancel(self, question_id: str) -> None:
        """Ends an answer, if it is running."""
        for branch in [branch for branch in self.running if branch.question.question_id == question_id]:
            self.finish(branch, "cancelled")

    def draw(self, wanted: Sequence[tuple[Branch, int]]) -> list[Saying]:
        """The next tokens of branches: so many of a prompt, or the newest of the answer.

        Room is made for all before any is drawn up. Those that find none, or that have come too far, are ended.
        """
        spans = self._spans(wanted)
        limit = self._timeline.bounds.trained_length
        far = [branch for branch, span, _ in spans if branch.reach(span) > limit]
        for branch in far:
            if branch.following is None:
                self._cut(branch)
        if far:
            spans = [each for each in spans if each[0] not in far]
        while self._share.free < (need := sum([branch.chain.pages_for([piece]) for branch, _, piece in spans])):
            if not self.relieve(need):
                self._cut(max(self.running, key=lambda branch: branch.chain.pages))
            spans = self._spans([(branch, count) for branch, count in wanted if branch not in far])
        return [Saying(branch, span, *branch.draft(span, piece, self._trunk)) for branch, span, piece in spans]

    def said(self, saying: Saying, following: Following | None) -> None:
        """A saying is done; what is `following` was drawn after it, unless more of the prompt is to come."""
        saying.branch.commit(saying.draft, saying.span)
        saying.branch.following = following

    def hear(self, branch: Branch, following: Following, token: int) -> None:
        """Takes the token that turned out to be following; by now more may have been drawn after it."""
        if branch not in self.running:
            return
        if branch.following is following:
            branch.following = None
        if token in self._voice.tokenizer.special.stops:
            self.finish(branch, "stop")
            return
        index = len(branch.answer)
        self._tell(branch, index, [token], branch.add(token))
        if len(branch.answer) >= branch.question.max_tokens:
            self.finish(branch, "length")

    def finish(self, branch: Branch, reason: FinishReason) -> None:
        """Ends a branch and says so. A remembered question and answer wait to become part of the trunk."""
        rest = branch.detokenizer.finish()
        if rest:
            branch.text += rest
            self._tell(branch, len(branch.answer), [], rest)
        self.running.remove(branch)
        branch.end()
        if branch.question.remember and reason in ("stop", "length"):
            self._remember(branch.question.text, tuple(branch.answer))
        self._emit(
            QuestionDone(
                session_id=self._session_id,
                question_id=branch.question.question_id,
                finish_reason=reason,
                text=branch.text,
                as_of_ms=branch.as_of_ms,
                completion_tokens=len(branch.answer),
            )
        )

    def _branch(self, question: AskQuestion, prompt: Span) -> Branch:
        return Branch(
            question,
            Chain(self._share, self._trunk.facts),
            prompt,
            snapshot=self._trunk.snapshot() if question.mode == "frozen" else None,
            detokenizer=self._voice.tokenizer.stream(),
            as_of_ms=self._timeline.newest_ms,
            moved=self._timeline.moved,
        )

    def _next(self, branch: Branch, count: int) -> Span:
        """What a branch reads next, where it stands: on a live branch, an answer's token after all that was seen."""
        if branch.live:
            branch.follow(self._timeline.moved)
        if branch.unread:
            return branch.prompt(count)
        clock = branch.clock.following(self._timeline.clock) if branch.live else branch.clock
        return self._voice.chat.answer(clock, branch.answer[-1:] if branch.following is None else [_UNREAD])

    def _spans(self, wanted: Sequence[tuple[Branch, int]]) -> list[tuple[Branch, Span, Piece]]:
        """What branches read next, and as their chains take it; those that have ended left out."""
        spans = [(branch, self._next(branch, count)) for branch, count in wanted if branch in self.running]
        return [(branch, span, branch.piece(span)) for branch, span in spans]

    def relieve(self, pages: int) -> bool:
        """Makes `pages` pages free: frozen branches go live, oldest first, then the trunk shrinks; whether it did."""
        for branch in self.running:
            if self._share.free < pages and not branch.live:
                self._go_live(branch)
        if self._share.free < pages:
            self._trunk.shrink(self._trunk.pages - (pages - self._share.free))
        return self._share.free >= pages

    def _go_live(self, branch: Branch) -> None:
        branch.go_live()
        branch.follow(self._timeline.moved)
        self._emit(
            EngineNotice(
                session_id=self._session_id,
                question_id=branch.question.question_id,
                code="branch_went_live",
                message="the memory is full: this answer now follows the stream",
            )
        )

    def _tell(self, branch: Branch, index: int, tokens: list[int], text: str) -> None:
        question_id = branch.question.question_id
        self._emit(
            Tokens(session_id=self._session_id, question_id=question_id, index=index, token_ids=tokens, text=text)
        )

    def _cut(self, branch: Branch) -> None:
        """Ends a branch that cannot go on."""
        self.finish(branch, "error" if branch.unread else "length")


def refusal(session_id: str, question: AskQuestion, code: str, message: str) -> Refused:
    return Refused(session_id=session_id, question_id=question.question_id, code=code, message=message)


def _joined(first: Span, second: Span) -> Span:
    tokens = np.concatenate([first.tokens, second.tokens])
    return Span(tokens, np.concatenate([first.positions, second.positions], axis=1), second.clock)
