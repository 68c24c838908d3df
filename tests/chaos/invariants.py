"""What must be true of everything a client sees, whatever was killed meanwhile. No sockets and no clock in here.

A ``Witness`` stands beside one session's client, across all of its connections: it is told what the client asked and
each event that came, in the order in which they came, and says which promises were broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Event = Mapping[str, Any]
Decode = Callable[[Sequence[int]], str]
Rule = Literal[
    "order",  # event ids grow: nothing is seen twice, nobody speaks for an epoch that is over
    "tokens",  # of each answer every index once and in turn
    "text",  # what was streamed is the answer, and is what the tokens say
    "outcome",  # each accepted question ends, once, and nothing follows
    "unasked",  # nothing is said about a question that this client did not ask
]
BROKEN_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Violation:
    rule: Rule
    about: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.about}: {self.detail}"


@dataclass
class Question:
    """One question and what came of it so far."""

    accepted: bool = False
    started: bool = False
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    outcome: str | None = None  # "done", or the code of its failure


@dataclass(frozen=True)
class Summary:
    asked: int
    accepted: int
    done: int
    failed: Mapping[str, int]  # by code
    tokens: int
    epochs: int
    lost_ms: int  # of media, as the session's new owners reported it


class Witness:
    """Watches one session. ``decode``, where given, turns an answer's token ids into its text."""

    def __init__(self, session_id: str, decode: Decode | None = None) -> None:
        self.session_id = session_id
        self.violations: list[Violation] = []
        self._decode = decode
        self._questions: dict[str, Question] = {}
        self._last = (0, -1)
        self._epochs: set[int] = set()
        self._lost_ms = 0

    def asked(self, question_id: str) -> None:
        """The client sends this question; again after a lost connection is no new question."""
        self._questions.setdefault(question_id, Question())

    def saw(self, event: Event) -> None:
        """One event, from whichever connection."""
        self._in_order(event)
        match event["type"]:
            case "question.accepted" if question := self._known(event):
                question.accepted = True
            case "answer.started" if question := self._open(event):
                self._started(event, question)
            case "answer.delta" if question := self._open(event):
                self._delta(event, question)
            case "answer.done" if question := self._open(event):
                self._done(event, question)
            case "answer.failed" if question := self._open(event):
                question.outcome = str(event["error"]["code"])
            case "notice" if event["code"] == "worker_changed":
                self._lost_ms += int(event["data"]["lost_ms"])

    def finish(self) -> list[Violation]:
        """Call once nothing more can come. Every accepted question must have its outcome by now."""
        for question_id, question in self._questions.items():
            if question.accepted and question.outcome is None:
                self._break("outcome", question_id, f"accepted, {len(question.token_ids)} tokens, no end")
        return self.violations

    def said(self, question_id: str) -> int:
        """Tokens of the answer so far."""
        return len(self._questions[question_id].token_ids)

    def summary(self) -> Summary:
        questions = self._questions.values()
        failures = [item.outcome for item in questions if item.outcome not in (None, "done")]
        return Summary(
            asked=len(questions),
            accepted=sum(question.accepted for question in questions),
            done=sum(question.outcome == "done" for question in questions),
            failed={str(code): failures.count(code) for code in sorted(map(str, set(failures)))},
            tokens=sum(len(question.token_ids) for question in questions),
            epochs=len(self._epochs),
            lost_ms=self._lost_ms,
        )

    def _in_order(self, event: Event) -> None:
        if event.get("event_id") is None:
            return
        epoch, _, n = str(event["event_id"]).partition("-")
        here = (int(epoch), int(n))
        if here <= self._last:
            before = "-".join(map(str, self._last))
            self._break("order", str(event["event_id"]), f"{event['type']} after {before}")
        self._last = max(here, self._last)
        self._epochs.add(here[0])

    def _known(self, event: Event) -> Question | None:
        question = self._questions.get(event["id"])
        if question is None:
            self._break("unasked", event["id"], event["type"])
        return question

    def _open(self, event: Event) -> Question | None:
        """The question, if it may still be spoken of. Output about it means that it was accepted."""
        question = self._known(event)
        if question is None:
            return None
        question.accepted = True
        if question.outcome is not None:
            self._break("outcome", event["id"], f"{event['type']} after its end ({question.outcome})")
            return None
        return question

    def _started(self, event: Event, question: Question) -> None:
        if question.started:
            self._break("outcome", event["id"], "begun twice")
        question.started = True

    def _delta(self, event: Event, question: Question) -> None:
        expected = len(question.token_ids)
        if not question.started:
            self._break("tokens", event["id"], "tokens before it was begun")
        if event["index"] != expected:
            self._break("tokens", event["id"], f"index {event['index']} where {expected} was due")
        question.token_ids += event["token_ids"]
        question.text += event["text"]

    def _done(self, event: Event, question: Question) -> None:
        question.outcome = "done"
        if event["finish_reason"] == "cancelled":  # may have ended before all that was streamed
            whole = question.text.startswith(event["text"])
        else:
            whole = question.text == event["text"]
            self._check_tokens(event, question)
        if not whole:
            self._break("text", event["id"], f"streamed {question.text!r}, ended as {event['text']!r}")

    def _check_tokens(self, event: Event, question: Question) -> None:
        if self._decode is not None and self._decode(question.token_ids) != event["text"]:
            self._break("text", event["id"], f"its tokens say {self._decode(question.token_ids)!r}")
        if BROKEN_CHARACTER in event["text"]:
            self._break("text", event["id"], "a character came apart")

    def _break(self, rule: Rule, about: str, detail: str) -> None:
        self.violations.append(Violation(rule, f"{self.session_id}/{about}", detail))
