"""What a session's way in and its questions say to the journal. No call waits, and none fails."""

from __future__ import annotations

import time
from typing import Protocol

from msgspec.structs import replace

from protocol.messages import AnswerDone, AnswerFailed, Ask
from server.journal.backlog import Backlog
from server.journal.entries import Head, Kind, Said, encode
from server.journal.scribe import Record
from server.journal.vault import SessionKey


class Recorder(Protocol):
    """Times are session time in milliseconds."""

    def media(
        self, codec: str, data: bytes, t_ms: int, track: int, sequence: int = 0, form: tuple[int, int] = (0, 0)
    ) -> None:
        """A chunk as the client sent it; ``form`` is the rate and the channels of PCM."""

    def preamble(self, codec: str, data: bytes, t_ms: int, track: int) -> None:
        """What a track's decoding begins with from here on: parameter sets, or a container's init segment."""

    def frame(self, jpeg: bytes, t_ms: int, track: int) -> None:
        """A sampled picture."""

    def asked(self, ask: Ask) -> None:
        """A question that was accepted here."""

    def ended(self, outcome: AnswerDone | AnswerFailed) -> None:
        """What became of a question; of those accepted elsewhere, another gateway hears."""


class NoRecorder:
    """Keeps nothing: the session did not ask for it."""

    def media(
        self, codec: str, data: bytes, t_ms: int, track: int, sequence: int = 0, form: tuple[int, int] = (0, 0)
    ) -> None:
        return

    def preamble(self, codec: str, data: bytes, t_ms: int, track: int) -> None:
        return

    def frame(self, jpeg: bytes, t_ms: int, track: int) -> None:
        return

    def asked(self, ask: Ask) -> None:
        return

    def ended(self, outcome: AnswerDone | AnswerFailed) -> None:
        return


class SessionRecorder:
    """Hands a session's records to the journal's writer."""

    def __init__(self, key: SessionKey, backlog: Backlog) -> None:
        self._key = key
        self._backlog = backlog
        self._unanswered: dict[str, int] = {}
        self._closed = False
        self.used_at = time.monotonic()

    def close(self) -> None:
        """The recording is being erased: whoever still holds this writes nothing more."""
        self._closed = True

    def media(
        self, codec: str, data: bytes, t_ms: int, track: int, sequence: int = 0, form: tuple[int, int] = (0, 0)
    ) -> None:
        rate, channels = form
        self._put(Head(Kind.MEDIA, t_ms, track, codec, sequence, rate=rate, channels=channels), data)

    def preamble(self, codec: str, data: bytes, t_ms: int, track: int) -> None:
        self._put(Head(Kind.PREAMBLE, t_ms, track, codec), data)

    def frame(self, jpeg: bytes, t_ms: int, track: int) -> None:
        self._put(Head(Kind.FRAME, t_ms, track, "jpeg"), jpeg)

    def asked(self, ask: Ask) -> None:
        if ask.question_id not in self._unanswered:
            self._unanswered[ask.question_id] = ask.at_ms
            said = Said(by="question", question_id=ask.question_id, at=ask.asked_at, text=ask.text, mode=ask.mode)
            self._put(Head(Kind.TEXT, ask.at_ms), encode(said))

    def ended(self, outcome: AnswerDone | AnswerFailed) -> None:
        at_ms = self._unanswered.pop(outcome.question_id, None)
        if at_ms is None:
            return
        said = Said(by="answer", question_id=outcome.question_id, at=time.time(), text="")
        if isinstance(outcome, AnswerDone):
            at_ms = max(outcome.as_of_ms, 0)
            said = replace(said, text=outcome.text, finish_reason=outcome.finish_reason)
        else:
            said = replace(said, finish_reason="error", error=outcome.code)
        self._put(Head(Kind.TEXT, at_ms), encode(said))

    def _put(self, head: Head, body: bytes) -> None:
        if self._closed:
            return
        self.used_at = time.monotonic()
        self._backlog.put(Record(self._key, head, body))
