"""One step over all sessions: plan, then answers and prompts, texts, pictures, frames, each as one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from workers.engine.batch import Following, Runner
from workers.engine.branch import Branch
from workers.engine.incoming import Frame
from workers.engine.messages import PushFrame
from workers.engine.pace import Heard, Pace
from workers.engine.sampler import sample
from workers.engine.scheduler import Prompt, StepLimits, Upcoming, plan
from workers.engine.session import Session
from workers.perception.vision import Eye, Picture

Pixels = Callable[[PushFrame], Picture]
SayWhose = Callable[[Iterable[Session]], None]


@dataclass(slots=True)
class Counters:
    """What was done since the start."""

    steps: int = 0
    frames: int = 0
    decode_tokens: int = 0
    question_tokens: int = 0
    vision_seconds: float = 0.0
    decoder_seconds: float = 0.0


class Stepper:
    """Reads and changes sessions only between forward passes; `pixels` gives a frame's picture when it is encoded, and
    `say_whose` is told, before a step's first pass, whose work is in it.
    """

    def __init__(
        self, runner: Runner, eye: Eye, pixels: Pixels, limits: StepLimits, say_whose: SayWhose, pace: Pace
    ) -> None:
        self._runner, self._eye, self._pixels, self._limits = runner, eye, pixels, limits
        self._say_whose, self._pace = say_whose, pace
        self.counters = Counters()

    def step(self, sessions: Sequence[Session], now: float) -> bool:
        """One step; False if there was nothing to do. Ties between sessions go to each of them in turn."""
        first = self.counters.steps % max(len(sessions), 1)
        sessions = [*sessions[first:], *sessions[:first]]
        for session in sessions:
            session.advance(now)
        texts = [session for session in sessions if session.texts]
        branches = [(session, branch) for session in sessions for branch in session.answers.running if branch.speaks]
        prompts = [(session, branch) for session, branch in branches if branch.unread]
        frames = [(session, frame) for session in sessions for frame in session.frames]
        if not (texts or branches or frames):
            return self._pace.settle()
        step = plan(
            self._limits,
            answers=len(branches) - len(prompts),
            prompts=[
                *(Prompt(session.texts[0].tokens, whole=True) for session in texts),
                *(Prompt(branch.unread) for _, branch in prompts),
            ],
            frames=[_upcoming(session, frame) for session, frame in frames],
        )
        counts = {id(branch): count for (_, branch), count in zip(prompts, step.prompts[len(texts) :], strict=True)}
        answering = [(session, branch, counts.get(id(branch), 1)) for session, branch in branches]
        writing = [session for session, count in zip(texts, step.prompts, strict=False) if count]
        seeing = [frames[place][0] for place in (*step.encode, *step.frames)]
        self._say_whose([*(session for session, _, count in answering if count), *writing, *seeing])
        heard = self._say(answering)
        self._write_texts(writing)
        self._encode([frames[place][1] for place in step.encode])
        self._write_frames([frames[place][0] for place in step.frames])
        if not (any(step.prompts) or step.encode or step.frames or len(branches) > len(prompts)):
            return self._pace.settle()
        self.counters.steps += 1
        return True

        self._pace.stepped(heard)
    def _say(self, wanted: Sequence[tuple[Session, Branch, int]]) -> Heard | None:
        """Running answers and questions, of all sessions, in one pass."""
        sayings = []
        for session in dict.fromkeys(session for session, _, _ in wanted):
            mine = [(branch, count) for owner, branch, count in wanted if owner is session and count]
            sayings += [(session, saying) for saying in session.answers.draw(mine)]
        if not sayings:
            return None
        with self._timed("decoder_seconds"):
            logits = self._runner.run([saying.work for _, saying in sayings])
            heard = [(session, saying) for session, saying in sayings if saying.work.wanted]
            drawn = sample(logits, [saying.branch.sampler for _, saying in heard])
        following = {id(saying): Following(drawn, row) for row, (_, saying) in enumerate(heard)}
        for session, saying in sayings:
            if saying.branch.unread:
                self.counters.question_tokens += len(saying.span)
            else:
                self.counters.decode_tokens += 1
            session.answers.said(saying, following.get(id(saying)))
        return Heard([(session.answers, saying, following[id(saying)]) for session, saying in heard], drawn)

    def _write_texts(self, sessions: Sequence[Session]) -> None:
        drawn = [(session, session.draw_text()) for session in sessions]
        writings = [(session, writing) for session, writing in drawn if writing is not None]
        if not writings:
            return
        with self._timed("decoder_seconds"):
            self._runner.run([writing.work for _, writing in writings])
        for session, writing in writings:
            session.timeline.commit(writing)

    def _encode(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        with self._timed("vision_seconds"):
            features = self._eye.encode([self._pixels(frame.command) for frame in frames])
        for frame, seen in zip(frames, features, strict=True):
            frame.features = seen

    def _write_frames(self, sessions: Sequence[Session]) -> None:
        drawn = [(session, *session.draw_frame()) for session in sessions]
        writings = [(session, frame, writing) for session, frame, writing in drawn if writing is not None]
        if not writings:
            return
        with self._timed("decoder_seconds"):
            self._runner.run([writing.work for _, _, writing in writings])
        for session, frame, writing in writings:
            session.timeline.commit(writing)
            session.taken(frame, "prefilled")
        self.counters.frames += len(writings)

    @contextmanager
    def _timed(self, counter: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        setattr(self.counters, counter, getattr(self.counters, counter) + time.perf_counter() - started)


def _upcoming(session: Session, frame: Frame) -> Upcoming:
    due = session.due_frame is frame
    encoded = frame.features is not None or not frame.tokens
    return Upcoming(frame.tokens, frame.command.deadline, encoded=encoded, due=due)
